//! What a connection's login and earlier commands say about its later ones: who is at the other end, the texts of prepared
//! statements, which one was prepared last, and the current database where it is known for certain.
//!
//! Not here: commands in flight (`flight`), and what is shown of all this (`event`).
//!
//! All tables are bounded ([`Limits`]). What was evicted, or was prepared before the capture began, is "unknown", never
//! guessed: server-side ids are not reused within a connection's life, so an id that is found is the right one.

use crate::command::LAST_PREPARED;
use crate::namespace::{self, Effect};
use crate::parameters::{Execution, JSON_MAX, Known as KnownParameters, LongData, Parameters, Type};
use crate::record::{Head, Login};
use ecapture_plugin_api::sdk::bounded::{Bound, Bounded};
use std::sync::Arc;

/// Bounds of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Prepared statements of all connections, and the bytes of their texts and of what was sent for their parameters.
    pub statements: Bound,
    /// Connections of which something is remembered.
    pub connections: usize,
    /// Commands in flight.
    pub flights: usize,
    /// Bytes of the texts of commands in flight.
    pub flight_bytes: usize,
}

impl Default for Limits {
    /// 65,536 statements with 128 MiB of text, 65,536 connections, 16,384 commands in flight with 128 MiB of text.
    fn default() -> Self {
        let bytes = 128 << 20;
        Self {
            statements: Bound { entries: 1 << 16, bytes },
            connections: 1 << 16,
            flights: 1 << 14,
            flight_bytes: bytes,
        }
    }
}

/// Names a connection as long as it lives: by its id, else by the address of its THD.
///
/// A server may put a new connection's THD where an old one's was. Then a stale entry could be met only by a connection
/// that executes an id which it never prepared, and that is an error at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    process: u32,
    by_address: bool,
    id: u64,
}

impl Connection {
    /// The connection that a message of `process` belongs to.
    pub fn new(process: u32, head: &Head) -> Self {
        match head.connection {
            Some(id) => Self { process, by_address: false, id },
            None => Self { process, by_address: true, id: head.thd },
        }
    }
}

/// A statement's text: what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Exact bytes, a prefix of the text.
    pub bytes: Arc<[u8]>,
    /// Bytes behind them that did not come.
    pub missing: u64,
}

/// What is remembered of a prepared statement.
#[derive(Debug, Default)]
struct Statement {
    /// Absent if the START of its prepare was lost.
    text: Option<Text>,
    /// How many parameters it has, if the server was seen to say so.
    parameters: Option<u16>,
    /// Types that the client sent last.
    types: Option<Known<Arc<[Type]>>>,
    /// Values sent ahead of its next execution; of those sent since `losses` was the number of losses, none was missed.
    long: LongData,
    long_losses: u64,
}

impl Statement {
    fn weight(&self) -> usize {
        let text = self.text.as_ref().map_or(0, |text| text.bytes.len());
        let types = self.types.as_ref().map_or(0, |types| size_of_val(&*types.value));
        // Beside its bytes, what a value takes in the map.
        text + types + self.long.values().map(|long| long.bytes.len() + 64).sum::<usize>()
    }
}

/// Where a connection's client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address, as text.
    pub address: Arc<[u8]>,
    /// Its port.
    pub port: u16,
}

/// Who is at the other end of a connection, as far as it is known for certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// The user that it logged in as.
    pub user: Option<Arc<[u8]>>,
    /// Its end of the network connection.
    pub peer: Option<Peer>,
}

/// Which statement COM_STMT_EXECUTE means by "the last one".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// None: the last prepare failed or was closed.
    None,
    /// This one.
    Id(u32),
}

#[derive(Debug, Default)]
struct Session {
    namespace: Option<Known<Arc<[u8]>>>,
    last: Option<Known<Last>>,
    user: Option<Known<Arc<[u8]>>>,
    peer: Option<Known<Peer>>,
}

/// A fact that later commands can change. One of these may have been lost since, therefore it counts only while no
/// record was lost.
#[derive(Debug, Clone)]
struct Known<T> {
    value: T,
    losses: u64,
}

fn certain<T: Clone>(fact: &Option<Known<T>>, losses: u64) -> Option<T> {
    fact.as_ref().filter(|fact| fact.losses == losses).map(|fact| fact.value.clone())
}

/// Everything remembered of the connections.
#[derive(Debug)]
pub struct Sessions {
    statements: Bounded<(Connection, u32), Statement>,
    sessions: Bounded<Connection, Session>,
    losses: u64,
}

impl Sessions {
    /// Nothing known yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            statements: Bounded::new(limits.statements),
            sessions: Bounded::new(Bound { entries: limits.connections, bytes: usize::MAX }),
            losses: 0,
        }
    }

    /// Records were lost, of which connection is not known: what a lost command may have changed is no longer certain.
    /// Texts by id stay: ids are not reused.
    pub fn lost_records(&mut self) {
        self.losses += 1;
    }

    /// The id behind `id`: itself, or that of the statement prepared last. `None` if that is not certain.
    pub fn resolve(&mut self, connection: Connection, id: u32) -> Option<u32> {
        if id != LAST_PREPARED {
            return Some(id);
        }
        match self.current(connection, |session| session.last.clone()) {
            Some(Last::Id(id)) => Some(id),
            Some(Last::None) | None => None,
        }
    }

    /// Text of a prepared statement, if it is still known.
    pub fn statement(&mut self, connection: Connection, id: u32) -> Option<Text> {
        self.statements.touch(&(connection, id))?.text.clone()
    }

    /// A statement was prepared. `text` is absent if the START of its prepare was lost.
    pub fn prepared(&mut self, connection: Connection, id: u32, text: Option<Text>, parameters: Option<u16>) {
        if text.is_none() && parameters.is_none() {
            self.statements.remove(&(connection, id));
        } else {
            let statement = Statement { text, parameters, long_losses: self.losses, ..Statement::default() };
            let weight = statement.weight();
            self.statements.insert((connection, id), statement, weight);
        }
        self.set_last(connection, Some(Last::Id(id)));
    }

    /// A statement begins to be executed: its parameters. `bulk`: with any number of rows of them, which nothing was sent ahead of.
    pub fn executes(
        &mut self,
        connection: Connection,
        id: u32,
        bulk: bool,
        read: impl FnOnce(KnownParameters<'_>) -> Execution,
    ) -> Parameters {
        let losses = self.losses;
        let Some(mut statement) = self.statements.remove(&(connection, id)) else { return Parameters::unknown() };
        let out = match statement.parameters {
            None => Parameters::unknown(),
            Some(count) => {
                let types = certain(&statement.types, losses);
                let known = KnownParameters { count, types: types.as_deref(), long: &statement.long };
                let execution = read(known);
                if let Some(types) = execution.types {
                    statement.types = Some(Known { value: types, losses });
                } else if execution.types_lost {
                    statement.types = None;
                }
                // A value may have been sent ahead without our seeing it: then it is not in the packet.
                if count == 0 || bulk || statement.long_losses == losses {
                    execution.parameters
                } else {
                    Parameters::unknown()
                }
            }
        };
        (statement.long, statement.long_losses) = (LongData::new(), losses);
        let weight = statement.weight();
        self.statements.insert((connection, id), statement, weight);
        out
    }

    /// A piece of a value was sent ahead of the execution. `missing`: bytes of the piece that did not come.
    pub fn sends_long(&mut self, connection: Connection, id: u32, parameter: u16, piece: &[u8], missing: u64) {
        let Some(mut statement) = self.statements.remove(&(connection, id)) else { return };
        if statement.parameters.is_some_and(|count| parameter < count) {
            // More than can be shown is not kept.
            let kept: usize = statement.long.values().map(|long| long.bytes.len()).sum();
            statement.long.entry(parameter).or_default().append(piece, missing, JSON_MAX.saturating_sub(kept));
        }
        let weight = statement.weight();
        self.statements.insert((connection, id), statement, weight);
    }

    /// Values that were sent ahead are forgotten (COM_STMT_RESET).
    pub fn resets(&mut self, connection: Connection, id: u32) {
        let losses = self.losses;
        let Some(mut statement) = self.statements.remove(&(connection, id)) else { return };
        (statement.long, statement.long_losses) = (LongData::new(), losses);
        let weight = statement.weight();
        self.statements.insert((connection, id), statement, weight);
    }

    /// A prepare failed: there is no last statement.
    pub fn not_prepared(&mut self, connection: Connection) {
        self.set_last(connection, Some(Last::None));
    }

    /// Which statement is the last one is not known any more.
    pub fn last_unknown(&mut self, connection: Connection) {
        self.set_last(connection, None);
    }

    /// A statement was closed.
    pub fn closed(&mut self, connection: Connection, id: u32) {
        let Some(id) = self.resolve(connection, id) else { return };
        self.statements.remove(&(connection, id));
        if self.current(connection, |session| session.last.clone()) == Some(Last::Id(id)) {
            self.set_last(connection, Some(Last::None));
        }
    }

    /// The connection ended.
    pub fn ended(&mut self, connection: Connection) {
        self.sessions.remove(&connection);
        self.forget_statements(connection);
    }

    /// The connection was reset: what its commands have left is gone, who it belongs to is not.
    pub fn reset(&mut self, connection: Connection) {
        self.change(connection, false, |session| (session.namespace, session.last) = (None, None));
        self.forget_statements(connection);
    }

    /// The connection is given to another user, of whom nothing is known yet.
    pub fn leaves_user(&mut self, connection: Connection) {
        self.change(connection, false, |session| session.user = None);
        self.reset(connection);
    }

    /// Somebody logs in, to a new connection or over one that there is. Whether with success does not matter: without it no
    /// command follows, or none whose user is known.
    pub fn logs_in(&mut self, connection: Connection, new: bool, login: &Login<'_>) {
        if new {
            self.ended(connection);
        } else {
            self.leaves_user(connection);
        }
        let losses = self.losses;
        let name = |text: &[u8]| Known { value: text.into(), losses };
        let peer = login.peer.map(|(address, port)| Known { value: Peer { address: address.into(), port }, losses });
        self.change(connection, true, |session| {
            session.user = login.user.map(name);
            session.namespace = login.database.filter(|database| !database.is_empty()).map(name);
            session.peer = peer.or(session.peer.take());
        });
    }

    /// Who is at the other end, and the current database: in one look, since every command asks.
    pub fn who(&mut self, connection: Connection) -> (Client, Option<Arc<[u8]>>) {
        let losses = self.losses;
        let Some(session) = self.sessions.touch(&connection) else { return (Client::default(), None) };
        let client = Client { user: certain(&session.user, losses), peer: certain(&session.peer, losses) };
        (client, certain(&session.namespace, losses))
    }

    fn forget_statements(&mut self, connection: Connection) {
        self.statements.remove_range((connection, 0)..=(connection, u32::MAX));
    }

    /// The database is now `name`; `None` = not known.
    pub fn set_namespace(&mut self, connection: Connection, name: Option<Arc<[u8]>>) {
        let losses = self.losses;
        self.change(connection, name.is_some(), |session| {
            session.namespace = name.map(|value| Known { value, losses });
        });
    }

    /// A statement with this text ran. `known`: the database was, when it began.
    pub fn ran(&mut self, connection: Connection, known: bool, text: Option<&Text>, succeeded: bool) {
        let Some(text) = text.filter(|text| text.missing == 0) else {
            return if known {
                self.set_namespace(connection, None)
            };
        };
        // The login of a connection that is older than the capture was not seen: nothing to lose, so no word is looked for.
        if !known && namespace::plain_use(&text.bytes).is_none() {
            return;
        }
        match namespace::effect(&text.bytes, true) {
            Effect::Sets(name) if succeeded => self.set_namespace(connection, Some(name.into())),
            Effect::Sets(_) | Effect::Keeps => {}
            Effect::Unknown => self.set_namespace(connection, None),
        }
    }

    fn current<T>(&mut self, connection: Connection, get: impl FnOnce(&Session) -> Option<Known<T>>) -> Option<T> {
        if self.sessions.is_empty() {
            return None;
        }
        let known = get(self.sessions.touch(&connection)?)?;
        (known.losses == self.losses).then_some(known.value)
    }

    fn set_last(&mut self, connection: Connection, last: Option<Last>) {
        let losses = self.losses;
        self.change(connection, last.is_some(), |session| session.last = last.map(|value| Known { value, losses }));
    }

    /// Changes a session; makes one only if there is something to remember.
    fn change(&mut self, connection: Connection, create: bool, set: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.touch(&connection) {
            set(session);
        } else if create {
            let mut session = Session::default();
            set(&mut session);
            self.sessions.insert(connection, session, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;

    fn connection(id: u64) -> Connection {
        Connection::new(1, &Head { command: Command::QUERY, thd: 9, connection: Some(id), start_ns: 0 })
    }

    fn namespace(sessions: &mut Sessions, connection: Connection) -> Option<Arc<[u8]>> {
        sessions.who(connection).1
    }

    fn ran(sessions: &mut Sessions, connection: Connection, text: Option<&Text>, succeeded: bool) {
        let known = namespace(sessions, connection).is_some();
        sessions.ran(connection, known, text, succeeded);
    }

    fn text(text: &str) -> Text {
        Text { bytes: text.as_bytes().into(), missing: 0 }
    }

    #[test]
    fn ids_belong_to_a_connection() {
        let mut sessions = Sessions::new(&Limits::default());
        sessions.prepared(connection(1), 1, Some(text("a")), Some(0));
        sessions.prepared(connection(2), 1, Some(text("b")), Some(0));
        assert_eq!(sessions.statement(connection(1), 1), Some(text("a")));
        sessions.ended(connection(1));
        assert_eq!(sessions.statement(connection(1), 1), None);
        assert_eq!(sessions.statement(connection(2), 1), Some(text("b")));
        let by_address = Connection::new(1, &Head { command: Command::QUERY, thd: 2, connection: None, start_ns: 0 });
        assert_eq!(sessions.statement(by_address, 1), None);
    }

    #[test]
    fn the_last_prepared_follows_prepare_failure_and_close() {
        let mut sessions = Sessions::new(&Limits::default());
        let c = connection(1);
        assert_eq!(sessions.resolve(c, LAST_PREPARED), None);
        sessions.prepared(c, 4, Some(text("a")), Some(0));
        assert_eq!(sessions.resolve(c, LAST_PREPARED), Some(4));
        sessions.lost_records();
        assert_eq!(sessions.resolve(c, LAST_PREPARED), None, "a prepare may have been lost");
        assert_eq!(sessions.statement(c, 4), Some(text("a")));
        sessions.prepared(c, 5, None, None);
        assert_eq!(sessions.resolve(c, LAST_PREPARED), Some(5));
        assert_eq!(sessions.statement(c, 5), None);
        sessions.not_prepared(c);
        assert_eq!(sessions.resolve(c, LAST_PREPARED), None);
        sessions.prepared(c, 6, Some(text("b")), Some(0));
        sessions.closed(c, LAST_PREPARED);
        assert_eq!((sessions.resolve(c, LAST_PREPARED), sessions.statement(c, 6)), (None, None));
    }

    #[test]
    fn the_database_is_exact_or_absent() {
        let mut sessions = Sessions::new(&Limits::default());
        let c = connection(1);
        ran(&mut sessions, c, Some(&text("select 1")), true);
        assert_eq!(namespace(&mut sessions, c), None);
        ran(&mut sessions, c, Some(&text("USE shop")), true);
        assert_eq!(namespace(&mut sessions, c).as_deref(), Some(&b"shop"[..]));
        ran(&mut sessions, c, Some(&text("use nowhere")), false);
        ran(&mut sessions, c, Some(&text("select 1")), true);
        assert_eq!(namespace(&mut sessions, c).as_deref(), Some(&b"shop"[..]));
        ran(&mut sessions, c, Some(&text("call p()")), true);
        assert_eq!(namespace(&mut sessions, c), None);
        sessions.set_namespace(c, Some(b"a"[..].into()));
        sessions.lost_records();
        assert_eq!(namespace(&mut sessions, c), None);
        sessions.set_namespace(c, Some(b"a"[..].into()));
        ran(&mut sessions, c, None, true);
        assert_eq!(namespace(&mut sessions, c), None);
    }

    #[test]
    fn statements_are_bounded_by_bytes() {
        let limits = Limits { statements: Bound { entries: 100, bytes: 10 }, ..Limits::default() };
        let mut sessions = Sessions::new(&limits);
        sessions.prepared(connection(1), 1, Some(text("12345678")), Some(0));
        sessions.prepared(connection(1), 2, Some(text("12345678")), Some(0));
        assert_eq!(sessions.statement(connection(1), 1), None);
        assert!(sessions.statement(connection(1), 2).is_some());
    }
}

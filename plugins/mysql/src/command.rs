//! Commands of the client/server protocol: number, name, and what the packet behind the number holds.
//! Source: "Client/Server Protocol" of the MariaDB knowledge base and of the MySQL internals manual. Numbers up to 31
//! are common to both servers; those from 32 on are MySQL's, those from 250 on MariaDB's.
//!
//! Not here: what a command does to a connection's state (`session`).

/// A command by its number in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Command(pub u8);

/// Id by which MariaDB's clients name "the statement prepared last on this connection" (pipelined prepare + execute).
pub const LAST_PREPARED: u32 = u32::MAX;

impl Command {
    /// COM_QUIT.
    pub const QUIT: Self = Self(1);
    /// COM_INIT_DB: the packet is the name of the database.
    pub const INIT_DB: Self = Self(2);
    /// COM_QUERY: the packet is the text.
    pub const QUERY: Self = Self(3);
    /// COM_DROP_DB, of old servers: the packet is the name of the database.
    pub const DROP_DB: Self = Self(6);
    /// COM_CONNECT, which no client sends: the login at the begin of a connection.
    pub const CONNECT: Self = Self(11);
    /// COM_CHANGE_USER: user, password proof, database. The packet is never shown.
    pub const CHANGE_USER: Self = Self(17);
    /// COM_STMT_PREPARE: the packet is the text.
    pub const STMT_PREPARE: Self = Self(22);
    /// COM_STMT_EXECUTE: statement id, flags, parameters.
    pub const STMT_EXECUTE: Self = Self(23);
    /// COM_STMT_SEND_LONG_DATA: statement id, parameter number, data.
    pub const STMT_SEND_LONG_DATA: Self = Self(24);
    /// COM_STMT_CLOSE: statement id.
    pub const STMT_CLOSE: Self = Self(25);
    /// COM_STMT_RESET: statement id.
    pub const STMT_RESET: Self = Self(26);
    /// COM_STMT_FETCH: statement id, number of rows.
    pub const STMT_FETCH: Self = Self(28);
    /// COM_RESET_CONNECTION.
    pub const RESET_CONNECTION: Self = Self(31);
    /// MariaDB's COM_STMT_BULK_EXECUTE: statement id, flags, rows of parameters.
    pub const STMT_BULK_EXECUTE: Self = Self(250);

    /// Name as in the protocol's documentation, in lower case without `COM_`; `command_<number>` for an unknown one.
    pub fn name(self) -> std::borrow::Cow<'static, str> {
        let name = match self.0 {
            0 => "sleep",
            1 => "quit",
            2 => "init_db",
            3 => "query",
            4 => "field_list",
            5 => "create_db",
            6 => "drop_db",
            7 => "refresh",
            8 => "shutdown",
            9 => "statistics",
            10 => "process_info",
            11 => "connect",
            12 => "process_kill",
            13 => "debug",
            14 => "ping",
            15 => "time",
            16 => "delayed_insert",
            17 => "change_user",
            18 => "binlog_dump",
            19 => "table_dump",
            20 => "connect_out",
            21 => "register_slave",
            22 => "stmt_prepare",
            23 => "stmt_execute",
            24 => "stmt_send_long_data",
            25 => "stmt_close",
            26 => "stmt_reset",
            27 => "set_option",
            28 => "stmt_fetch",
            29 => "daemon",
            30 => "binlog_dump_gtid",
            31 => "reset_connection",
            32 => "clone",
            33 => "subscribe_group_replication_stream",
            250 => "stmt_bulk_execute",
            251 => "slave_worker",
            252 => "slave_io",
            253 => "slave_sql",
            254 => "multi",
            number => return format!("command_{number}").into(),
        };
        name.into()
    }

    /// Whether the packet starts with the id of a prepared statement.
    pub fn names_statement(self) -> bool {
        matches!(
            self,
            Self::STMT_EXECUTE
                | Self::STMT_BULK_EXECUTE
                | Self::STMT_SEND_LONG_DATA
                | Self::STMT_CLOSE
                | Self::STMT_RESET
                | Self::STMT_FETCH
        )
    }

    /// Whether the server answers nothing at all: these can end neither "ok" nor "error" as seen from the client.
    pub fn is_silent(self) -> bool {
        matches!(self, Self::QUIT | Self::STMT_SEND_LONG_DATA | Self::STMT_CLOSE)
    }
}

/// Statement id at the head of a packet of [`Command::names_statement`]; `None` when the packet is too short for one.
pub fn statement_id(packet: &[u8]) -> Option<u32> {
    packet.first_chunk::<4>().map(|id| u32::from_le_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = (0..=255).map(|n| Command(n).name()).collect();
        assert_eq!(names.len(), 256);
        assert_eq!(Command(99).name(), "command_99");
        assert_eq!(Command::STMT_BULK_EXECUTE.name(), "stmt_bulk_execute");
    }

    #[test]
    fn ids_need_four_bytes() {
        assert_eq!(statement_id(&[1, 2, 0, 0, 9]), Some(0x201));
        assert_eq!(statement_id(&[0xff; 4]), Some(LAST_PREPARED));
        assert_eq!(statement_id(&[1, 2, 3]), None);
        assert_eq!(statement_id(&[]), None);
    }
}

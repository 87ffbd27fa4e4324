//! The functions of a server that the kernel side's programs go on, for both ways in which servers call them.
//! Mirrors the comments at the programs in `ebpf-objects/src/mysql.bpf.c`. All are exported by the builds of Debian
//! (MariaDB 10.5, 10.11, 11.8; MySQL 9.7), because the servers export their functions to their plugins.

use super::Image;
use crate::record::{convention as number, eof, product, statement};

/// A way in which a server's functions are called.
#[derive(Debug, PartialEq, Eq)]
pub struct Convention {
    /// `MariaDB` or `MySQL`.
    pub product: &'static str,
    /// `enum mysql_convention`.
    pub number: u32,
    /// [`crate::record::product`].
    pub id: u32,
    /// What to probe; the first ones are the command itself.
    pub hooks: &'static [Hook],
}

/// A program and the functions that it may go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program.
    pub program: &'static str,
    /// Entry or return.
    pub at_return: bool,
    /// Mangled names, one of which a file has.
    pub symbols: &'static [&'static str],
    /// Arguments that the program reads, the first six of them in registers.
    pub args: u8,
    /// What the program is told about how this function is called; [`Convention::number`] if nothing else.
    pub arg: Option<u32>,
    /// Only where the function's own code calls this one: what it does is then done by a copy that the compiler put in
    /// it, not by the function that the other hooks of the program are on.
    pub only_if_calls: Option<&'static str>,
    /// Only where the offset of the id in MariaDB's Statement is known, or only where it is not.
    pub only_with_id: Option<bool>,
    /// Whether there is nothing to see without it.
    pub required: bool,
    /// What is missing without it.
    pub without: &'static str,
}

const MARIADB_DISPATCH: &[&str] = &[
    "_Z16dispatch_command19enum_server_commandP3THDPcjb", // 10.6 and later
    "_Z16dispatch_command19enum_server_commandP3THDPcjbb", // 10.2 to 10.5
];
const MYSQL_DISPATCH: &[&str] = &["_Z16dispatch_commandP3THDPK8COM_DATA19enum_server_command"];
/// Executes a prepared statement of MySQL with PS_PARAM.
pub const MYSQL_EXECUTE: &str = "_Z19mysqld_stmt_executeP3THDP18Prepared_statementbmP8PS_PARAM";
/// Describes a parameter of MariaDB.
pub const DESCRIBE_PARAMETER: &str = "_ZN10Item_param15make_send_fieldEP3THDP10Send_field";
/// The constructor of MariaDB's Statement.
pub const STATEMENT: &str = "_ZN9StatementC2EP3LEXP11st_mem_rootN11Query_arena10enum_stateEm";
/// Puts one into the list of its connection.
pub const STATEMENT_LIST: &str = "_ZN13Statement_map6insertEP3THDP9Statement";
const CONNECT: &[&str] = &["_Z22thd_prepare_connectionP3THD"];
/// 9.7; older ones have it as C.
const MYSQL_PEER: &[&str] = &["_Z13vio_peer_addrP3VioPcPtm", "vio_peer_addr"];

const NO_COMMANDS: &str = "nothing can be seen";
const NO_OK: &str = "rows affected, insert ids and warnings are not shown";
const NO_ROWS: &str = "rows returned are not shown";
const NO_ERROR: &str = "errors are shown as ok: their number and text can't be seen";
const NO_PARAMETERS: &str = "parameters of statements are not shown";
const NO_USER: &str = "user and database of a login are not shown";
const NO_PEER: &str = "the client's address is not shown";
const NO_ID: &str = "executions of prepared statements are shown without the statement's text";

const fn hook(program: &'static str, symbols: &'static [&'static str], args: u8, without: &'static str) -> Hook {
    Hook {
        program,
        at_return: false,
        symbols,
        args,
        arg: None,
        only_if_calls: None,
        only_with_id: None,
        required: false,
        without,
    }
}

const fn at_return(program: &'static str, symbols: &'static [&'static str], without: &'static str) -> Hook {
    Hook { at_return: true, ..hook(program, symbols, 0, without) }
}

const fn command(symbols: &'static [&'static str], args: u8) -> Hook {
    Hook { required: true, ..hook("mysql_command", symbols, args, NO_COMMANDS) }
}

const fn command_end(symbols: &'static [&'static str]) -> Hook {
    Hook { required: true, ..at_return("mysql_command_end", symbols, NO_COMMANDS) }
}

const fn eof(symbols: &'static [&'static str], args: u8, called: u32) -> Hook {
    Hook { arg: Some(called), ..hook("mysql_eof", symbols, args, NO_ROWS) }
}

const fn statement(symbols: &'static [&'static str], args: u8, called: u32) -> Hook {
    Hook { arg: Some(called), ..hook("mysql_statement", symbols, args, NO_ID) }
}

/// A function of MariaDB that ends a result set itself, where the compiler made it so: 11.8 of Debian 13 has copies of
/// net_send_eof in the two functions that would call it.
const fn eof_copy(symbols: &'static [&'static str], args: u8, called: u32) -> Hook {
    Hook { only_if_calls: Some("my_net_write"), ..eof(symbols, args, called) }
}

/// MariaDB: dispatch_command(command, THD*, packet, length, ...); Protocol's functions take the THD.
pub static MARIADB: Convention = Convention {
    product: "MariaDB",
    number: number::MARIADB,
    id: product::MARIADB,
    hooks: &[
        command(MARIADB_DISPATCH, 4),
        command_end(MARIADB_DISPATCH),
        // Of eight arguments six are in registers, the others where the stack pointer says. 10.5 has one more behind.
        hook(
            "mysql_ok",
            &["_ZN8Protocol11net_send_okEP3THDjjyyPKcb", "_ZN8Protocol11net_send_okEP3THDjjyyPKcbb"],
            8,
            NO_OK,
        ),
        eof(&["_ZN8Protocol12net_send_eofEP3THDjj"], 4, eof::WITH_THD),
        eof_copy(&["_ZN8Protocol8send_eofEjj"], 3, eof::WITHOUT_THD),
        eof_copy(&["_ZN8Protocol22end_partial_result_setEP3THD"], 0, eof::PARTIAL),
        hook("mysql_error", &["_ZN8Protocol21net_send_error_packetEP3THDjPKcS3_"], 5, NO_ERROR),
        // Only statements that are prepared have parameters to describe, every SELECT has columns: a trap for each would be dear.
        hook(
            "mysql_describe",
            &[DESCRIBE_PARAMETER, "_ZN8Protocol24send_result_set_metadataEP4ListI4ItemEj"],
            0,
            NO_PARAMETERS,
        ),
        at_return("mysql_result_set", &["_ZN8Protocol24send_result_set_metadataEP4ListI4ItemEj"], NO_ROWS),
        // Not Query_cache::send_result_to_client: it would tell an answer out of the cache from other silent successes, which
        // nobody is shown, and two traps for each SELECT of all servers are a high price for it.
        Hook { only_with_id: Some(true), ..statement(&[STATEMENT_LIST], 3, statement::LISTED) },
        Hook { only_with_id: Some(false), ..statement(&[STATEMENT], 5, statement::MADE) },
        hook("mysql_login", &["_Z17general_log_printP3THD19enum_server_commandPKcz"], 6, NO_USER),
        hook("mysql_connect", CONNECT, 0, NO_PEER),
        hook("mysql_peer", &["vio_peer_addr"], 3, NO_PEER),
        at_return("mysql_peer_end", &["vio_peer_addr"], NO_PEER),
    ],
};

/// MySQL: dispatch_command(THD*, COM_DATA*, command); Protocol_classic's own methods.
pub static MYSQL: Convention = Convention {
    product: "MySQL",
    number: number::MYSQL,
    id: product::MYSQL,
    hooks: &[
        command(MYSQL_DISPATCH, 3),
        command_end(MYSQL_DISPATCH),
        hook("mysql_ok", &["_ZN16Protocol_classic7send_okEjjyyPKc"], 5, NO_OK),
        eof(&["_ZN16Protocol_classic8send_eofEjj"], 3, eof::WITHOUT_THD),
        hook("mysql_error", &["_ZN16Protocol_classic10send_errorEjPKcS1_"], 4, NO_ERROR),
        at_return("mysql_result_set", &["_ZN16Protocol_classic19end_result_metadataEv"], NO_ROWS),
        statement(&["_ZN16Protocol_classic15store_ps_statusEmjjm"], 4, statement::TOLD),
        hook("mysql_login", &["_Z15acl_log_connectPKcS0_S0_S0_P3THD19enum_server_command"], 6, NO_USER),
        hook("mysql_connect", CONNECT, 0, NO_PEER),
        hook("mysql_peer", MYSQL_PEER, 3, NO_PEER),
        at_return("mysql_peer_end", MYSQL_PEER, NO_PEER),
    ],
};

/// The names of dispatch_command that are known, for people.
pub fn known() -> String {
    let of = |product: &str, names: &[&str]| format!("{product} ({})", names.join(", "));
    format!("{} nor that of {}", of("MariaDB", MARIADB_DISPATCH), of("MySQL", MYSQL_DISPATCH))
}

/// The convention of a file and the name of its dispatch_command.
pub fn find(image: &impl Image) -> Option<(&'static Convention, &'static str)> {
    [(&MARIADB, MARIADB_DISPATCH), (&MYSQL, MYSQL_DISPATCH)].into_iter().find_map(|(convention, names)| {
        let name = names.iter().find(|name| image.has_function(name))?;
        Some((convention, *name))
    })
}

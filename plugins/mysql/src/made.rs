//! Messages as the kernel side would write them, for the tests.

use crate::command::Command;
use crate::record::{END, ERROR, End, LOGIN, PARAMETERS, PS_PARAM, START, kind, login_flag, start_flag};

fn head(kind: u32, command: Command, connection: u64, start_ns: u64, size: usize) -> Vec<u8> {
    let mut data = kind.to_le_bytes().to_vec();
    data.extend(u32::from(command.0).to_le_bytes());
    data.extend((0x7000 + connection).to_le_bytes());
    data.extend(connection.to_le_bytes());
    data.extend(start_ns.to_le_bytes());
    data.resize(size, 0);
    data
}

fn put(data: &mut [u8], at: usize, value: &[u8]) {
    data[at..at + value.len()].copy_from_slice(value);
}

/// START; `more` is how many bytes longer the packet was than what came.
pub fn start(command: Command, connection: u64, start_ns: u64, id: Option<u32>, packet: &[u8], more: u32) -> Vec<u8> {
    let mut data = head(kind::START, command, connection, start_ns, START);
    put(&mut data, 32, &(u32::try_from(packet.len()).unwrap() + more).to_le_bytes());
    if let Some(id) = id {
        put(&mut data, 36, &start_flag::STATEMENT.to_le_bytes());
        put(&mut data, 40, &id.to_le_bytes());
    }
    data.extend_from_slice(packet);
    data
}

/// END.
pub fn end(command: Command, connection: u64, start_ns: u64, end: &End) -> Vec<u8> {
    let mut data = head(kind::END, command, connection, start_ns, END);
    put(&mut data, 32, &end.flags.to_le_bytes());
    put(&mut data, 36, &end.statement.to_le_bytes());
    put(&mut data, 40, &end.rows.to_le_bytes());
    put(&mut data, 48, &end.affected_rows.to_le_bytes());
    put(&mut data, 56, &end.insert_id.to_le_bytes());
    put(&mut data, 64, &end.results.to_le_bytes());
    put(&mut data, 68, &end.result_sets.to_le_bytes());
    put(&mut data, 72, &end.errors.to_le_bytes());
    put(&mut data, 76, &end.warnings.to_le_bytes());
    put(&mut data, 84, &end.error.to_le_bytes());
    put(&mut data, 88, &end.sqlstate);
    put(&mut data, 96, &end.returned.to_le_bytes());
    put(&mut data, 100, &end.parameters.to_le_bytes());
    data
}

/// START and PARAMETERS of MySQL's COM_STMT_EXECUTE: the values are those that the array points at, from `base` on.
pub fn values(connection: u64, start_ns: u64, id: u32, values: &[u8], more: u32) -> Vec<u8> {
    let mut data = start(Command::STMT_EXECUTE, connection, start_ns, Some(id), values, more);
    put(&mut data, 36, &(start_flag::STATEMENT | start_flag::VALUES).to_le_bytes());
    data
}

/// PARAMETERS.
pub fn parameters(connection: u64, start_ns: u64, base: u64, new_types: bool, entries: &[[u8; PS_PARAM]]) -> Vec<u8> {
    let mut data = head(kind::PARAMETERS, Command::STMT_EXECUTE, connection, start_ns, PARAMETERS);
    put(&mut data, 32, &base.to_le_bytes());
    put(&mut data, 40, &u32::try_from(entries.len()).unwrap().to_le_bytes());
    put(&mut data, 44, &u32::from(new_types).to_le_bytes());
    data.extend(entries.iter().flatten());
    data
}

/// LOGIN; `peer` over the network.
pub fn login(
    command: Command,
    connection: u64,
    start_ns: u64,
    user: &str,
    database: &str,
    peer: Option<(&str, u16)>,
) -> Vec<u8> {
    let mut data = head(kind::LOGIN, command, connection, start_ns, LOGIN);
    let flags = login_flag::USER | login_flag::DATABASE | peer.map_or(0, |_| login_flag::PEER);
    put(&mut data, 32, &flags.to_le_bytes());
    if let Some((address, port)) = peer {
        put(&mut data, 36, &u32::from(port).to_le_bytes());
        put(&mut data, 40, address.as_bytes());
    }
    put(&mut data, 88, user.as_bytes());
    put(&mut data, 488, database.as_bytes());
    data
}

/// ERROR.
pub fn error(command: Command, connection: u64, start_ns: u64, error: u32, sqlstate: &str, text: &[u8]) -> Vec<u8> {
    let mut data = head(kind::ERROR, command, connection, start_ns, ERROR);
    put(&mut data, 32, &error.to_le_bytes());
    put(&mut data, 40, sqlstate.as_bytes());
    data.extend_from_slice(text);
    data
}

//! The version detector: from the bytes of one server binary to its version, the functions to probe, and one row for
//! the kernel side. Everything is read from the file itself; there is no table of versions.
//!
//! Which functions: [`convention`]. Offsets out of code: [`code`]. Version text: [`version`]. Not here: how an ELF file
//! is read; that is [`Image`], made from the SDK's reader in `lib.rs`, and from plain maps in the tests.

pub mod code;
pub mod convention;
pub mod version;

use crate::record::{parameter_layout, product};
use convention::{Convention, Hook};
use version::Version;

/// As much of an ELF file as the detector asks for. All of it is hostile.
pub trait Image {
    /// Whether a function of this name is defined (`.dynsym` or `.symtab`).
    fn has_function(&self, name: &str) -> bool;
    /// The first bytes of a function's code, at most `most`; `None` if it is not there.
    fn code(&self, name: &str, most: usize) -> Option<&[u8]>;
    /// Whether the code of one function calls or jumps to another by its address.
    fn calls(&self, name: &str, other: &str) -> bool;
    /// Sections that hold initialised data: name and bytes.
    fn data_sections(&self) -> Vec<(&str, &[u8])>;
    /// Whether the file has a table of symbols at all.
    fn has_symbols(&self) -> bool;
    /// Whether the code is that of x86-64.
    fn is_x86_64(&self) -> bool;
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// The product and its version.
    pub version: Version,
    /// How the server is called inside.
    pub convention: &'static Convention,
    /// The functions to probe that the file has, one for each [`Hook`].
    pub hooks: Vec<Placed>,
    /// The row for `ecap_layouts`.
    pub layout: [u8; LAYOUT],
    /// How each thing was found, and what will be missing.
    pub notes: Vec<String>,
}

/// A hook and the function that was found for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What is wanted.
    pub hook: &'static Hook,
    /// The symbol.
    pub symbol: String,
}

/// Bytes of `struct mysql_layout`.
pub const LAYOUT: usize = 32;
/// `MYSQL_UNKNOWN_OFFSET`.
pub const UNKNOWN_OFFSET: u32 = u32::MAX;

const REMEDY: &str = "give the server binary itself with --mysqld, or install the distribution's or vendor's own build, \
                      which exports its functions for plugins";

/// Looks at one file.
///
/// # Errors
/// Why the file can't be captured from, and what to do: a sentence for the user.
pub fn detect(image: &impl Image) -> Result<Detection, String> {
    if !image.has_symbols() {
        return Err(format!("the file has no symbols, not even the exported ones: {REMEDY}"));
    }
    match convention::find(image) {
        Some((convention, dispatch)) => {
            let note = format!("server of {} by its function {dispatch}", convention.product);
            Ok(detect_convention(image, convention, dispatch, note))
        }
        None => Err(format!(
            "no function dispatch_command that this module knows is among the file's symbols, neither that of {}: {REMEDY}, \
             or name the function with --funcname",
            convention::known(),
        )),
    }
}

/// Looks at one file whose function dispatch_command the user has named. Its name tells the convention: MySQL passes
/// COM_DATA, MariaDB does not.
///
/// # Errors
/// The file does not have the function.
pub fn detect_as(image: &impl Image, dispatch: &str) -> Result<Detection, String> {
    if !image.has_function(dispatch) {
        return Err(format!("the file has no function {dispatch}: check --funcname, or leave it out"));
    }
    let convention = if dispatch.contains("COM_DATA") { &convention::MYSQL } else { &convention::MARIADB };
    let note = format!("called as {} does, by the name given with --funcname", convention.product);
    Ok(detect_convention(image, convention, dispatch, note))
}

fn detect_convention(image: &impl Image, convention: &'static Convention, dispatch: &str, note: String) -> Detection {
    let version = version::find(image, convention.product);
    let mut notes = vec![note, format!("version {}: {}", version.text, version.how)];
    let statement_id = statement_id(image, convention, &mut notes);
    let mut hooks = Vec::new();
    for hook in convention.hooks {
        if hook.only_with_id.is_some_and(|with| with != statement_id.is_some()) {
            continue;
        }
        if let Some(other) = hook.only_if_calls {
            let copies = hook.symbols.iter().copied().filter(|name| image.calls(name, other));
            hooks.extend(copies.map(|symbol| Placed { hook, symbol: symbol.to_owned() }));
            continue;
        }
        let known = || hook.symbols.iter().copied().find(|name| image.has_function(name));
        match if hook.required { Some(dispatch) } else { known() } {
            Some(symbol) => hooks.push(Placed { hook, symbol: symbol.to_owned() }),
            None => notes.push(format!("no function {}: {}", hook.symbols.join(" or "), hook.without)),
        }
    }

    let thread_id = derive(image, &mut notes, "connection id", "THD", &["thd_get_thread_id"], |code| {
        code::thread_id(code.first()?)
    });
    if thread_id.is_none() {
        notes.push("connections are told apart by the address of their THD, no connection id is shown".to_owned());
    }
    let packet_number = packet_number(image, convention, &mut notes);
    if packet_number.is_none() {
        notes.push("the number of rows returned is not shown".to_owned());
    }
    let parameters = parameters(image, convention, &version, &mut notes);
    let layout = layout(convention, thread_id, packet_number, statement_id, parameters);
    Detection { version, convention, hooks, layout, notes }
}

/// Offset of the running number of packets in THD: rows are packets, so it counts them.
fn packet_number(image: &impl Image, convention: &Convention, notes: &mut Vec<String>) -> Option<code::Field> {
    let what = "number of packets sent";
    if convention.id == product::MYSQL {
        return derive(image, notes, what, "THD", &["_ZN16Protocol_classic17get_output_pkt_nrEv"], |code| {
            Some(code::Field { offset: code::packet_number_of_thd(code.first()?)?, size: 4 })
        });
    }
    derive(image, notes, what, "THD", &["_Z23thd_is_connection_aliveP3THD", "my_net_write"], |code| {
        let [net, write] = code else { return None };
        let offset = code::net(net)?.checked_add(code::packet_number_of_net(write)?)?;
        Some(code::Field { offset, size: 4 })
    })
}

/// Offset of the id in MariaDB's Statement: with it the id can be had where it costs least.
fn statement_id(image: &impl Image, convention: &Convention, notes: &mut Vec<String>) -> Option<code::Field> {
    if convention.id != product::MARIADB || !image.has_function(convention::STATEMENT_LIST) {
        return None;
    }
    derive(image, notes, "id of a prepared statement", "Statement", &[convention::STATEMENT], |code| {
        code::statement_id(code.first()?)
    })
}

/// MySQL has taken the packet apart when it is seen, into structures that no code of an exported function tells in full. They are
/// those of the published headers since 8.0.23, which is when parameters got names; 9.7 was looked at.
fn parameters(image: &impl Image, convention: &Convention, version: &Version, notes: &mut Vec<String>) -> u32 {
    if convention.id != product::MYSQL {
        let asked = image.has_function(convention::DESCRIBE_PARAMETER);
        return if asked { parameter_layout::ASKED } else { parameter_layout::UNKNOWN };
    }
    let taken = version::parts(&version.text).is_some_and(|v| ([8, 0, 23]..[10, 0, 0]).contains(&v));
    let executes = image.has_function(convention::MYSQL_EXECUTE);
    let known = taken && executes;
    notes.push(match (taken, executes) {
        (true, true) => format!("parameters: as in MySQL 8.0.23 to 9, by the version and {}", convention::MYSQL_EXECUTE),
        (false, _) => format!(
            "parameters of prepared statements are not shown: where MySQL has them is known for 8.0.23 to 9, this is {}",
            version.text
        ),
        (true, false) => {
            format!("parameters of prepared statements are not shown: no function {}", convention::MYSQL_EXECUTE)
        }
    });
    if known { parameter_layout::NAMED } else { parameter_layout::UNKNOWN }
}

/// Derives an offset into a structure from the code of functions, and says so.
fn derive(
    image: &impl Image,
    notes: &mut Vec<String>,
    what: &str,
    structure: &str,
    functions: &[&str],
    read: impl Fn(&[&[u8]]) -> Option<code::Field>,
) -> Option<code::Field> {
    let names = functions.join(" and ");
    if !image.is_x86_64() {
        notes.push(format!("{what}: code of this architecture can't be read here"));
        return None;
    }
    let code: Option<Vec<&[u8]>> = functions.iter().map(|name| image.code(name, code::MOST)).collect();
    let Some(code) = code else {
        notes.push(format!("{what}: the file does not export {names}"));
        return None;
    };
    let field = read(&code);
    notes.push(match field {
        Some(field) => {
            let code::Field { offset, size } = field;
            format!("{what}: offset {offset:#x} in {structure}, {size} bytes, from the code of {names}")
        }
        None => format!("{what}: the code of {names} is not what was expected"),
    });
    field
}

fn layout(
    convention: &Convention,
    thread_id: Option<code::Field>,
    packet_number: Option<code::Field>,
    statement_id: Option<code::Field>,
    parameters: u32,
) -> [u8; LAYOUT] {
    let words = [
        1,
        convention.number,
        thread_id.map_or(UNKNOWN_OFFSET, |field| field.offset),
        thread_id.map_or(0, |field| field.size),
        packet_number.map_or(UNKNOWN_OFFSET, |field| field.offset),
        convention.id,
        statement_id.map_or(UNKNOWN_OFFSET, |field| field.offset),
        parameters,
    ];
    let mut row = [0; LAYOUT];
    for (to, word) in row.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&u32::to_le_bytes(word));
    }
    row
}

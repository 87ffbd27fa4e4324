//! The manual page, made from the command line itself: it has the modules that are there.

use clap::Command;
use clap_mangen::Man;

use crate::failure::Failure;

/// `ecapture(1)`: the program, then each command with its options.
///
/// # Errors
/// `E-OUTPUT`; not seen, since it is written to memory.
pub fn page(mut command: Command) -> Result<String, Failure> {
    command.build();
    let mut page = Vec::new();
    let mut write = |command: &Command, first: bool| -> std::io::Result<()> {
        let man = Man::new(command.clone());
        if first {
            return man.render(&mut page);
        }
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_uppercase();
        page.extend_from_slice(format!(".SH \"{}\"\n", name.replace(['"', '\\'], " ")).as_bytes());
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)
    };
    let written = write(&command, true).and_then(|()| {
        command.get_subcommands().filter(|c| c.get_name() != "help").try_for_each(|command| write(command, false))
    });
    written.map_err(|e| Failure::new("E-OUTPUT", format!("cannot write the manual page: {e}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

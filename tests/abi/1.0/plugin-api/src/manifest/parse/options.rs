//! `[[config]]`.

use super::Result;
use crate::{
    manifest::{
        ConfigOption, MAX_HELP, MAX_LIST, MAX_OPTIONS, MAX_TEXT, OptionType, RESERVED_SHORT, names, parse_duration,
        parse_size,
        reader::{Field, Section, quote},
    },
    plan::Value,
};

const TYPES: &[(&str, OptionType)] = &[
    ("path", OptionType::Path),
    ("string", OptionType::String),
    ("int", OptionType::Int),
    ("bool", OptionType::Bool),
    ("duration", OptionType::Duration),
    ("size", OptionType::Size),
    ("enum", OptionType::Enum),
    ("list", OptionType::List),
];

pub(super) fn read_options(root: &Section<'_>) -> Result<Vec<ConfigOption>> {
    let mut options: Vec<ConfigOption> = Vec::new();
    for section in root.tables("config", MAX_OPTIONS)? {
        let option = read_option(&section)?;
        if options.iter().any(|o| o.name == option.name) {
            return Err(section.error_at("name", format!("{} is there twice", quote(&option.name))));
        }
        if let Some(short) = option.short
            && options.iter().any(|o| o.short == Some(short))
        {
            return Err(section.error_at("short", format!("-{short} is there twice")));
        }
        options.push(option);
    }
    Ok(options)
}

fn read_option(section: &Section<'_>) -> Result<ConfigOption> {
    section.only(&["name", "type", "help", "default", "min", "max", "values", "short"])?;
    let field = section.need("name")?;
    let name = field.name()?;
    if names::RESERVED_LONG.contains(&name.as_str()) {
        return Err(field.error(format!("--{name} is a flag of the host")));
    }
    let kind = section.need("type")?.one_of(TYPES)?;
    let ranged = matches!(kind, OptionType::Int | OptionType::Duration | OptionType::Size);
    let bound = |key: &str| match section.get(key) {
        Some(field) if !ranged => Err(field.error("only int, duration and size have a range")),
        Some(field) => number(&field, kind).map(Some),
        None => Ok(None),
    };
    let (min, max) = (bound("min")?, bound("max")?);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err(section.error_at("min", "greater than max"));
    }
    let values = section.list("values", MAX_LIST, |f| f.line_of_text(MAX_TEXT))?;
    match kind {
        OptionType::Enum if values.is_empty() => return Err(section.error_at("values", "an enum needs at least one")),
        OptionType::Enum | OptionType::List => {}
        _ if !values.is_empty() => return Err(section.error_at("values", "only enum and list have them")),
        _ => {}
    }
    let mut option = ConfigOption {
        name,
        kind,
        help: section.need("help")?.help()?,
        default: None,
        min,
        max,
        values,
        short: section.get("short").map(|f| short(&f)).transpose()?,
    };
    if let Some(field) = section.get("default") {
        let value = default(&field, kind)?;
        option.fits(&value).map_err(|why| field.error(why))?;
        option.default = Some(value);
    }
    Ok(option)
}

fn short(field: &Field<'_>) -> Result<char> {
    let text = field.str()?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if RESERVED_SHORT.contains(&c) => Err(field.error(format!("-{c} is a flag of the host"))),
        (Some(c), None) if c.is_ascii_alphanumeric() => Ok(c),
        _ => Err(field.error(format!("{} is not one letter or digit", quote(text)))),
    }
}

/// A number of an option's type: an integer, or a text with a unit.
fn number(field: &Field<'_>, kind: OptionType) -> Result<i64> {
    let with_unit = |read: fn(&str) -> Option<i64>, what: &str| {
        let text = field.str()?;
        read(text).ok_or_else(|| field.error(format!("{} is not {what}", quote(text))))
    };
    match kind {
        OptionType::Duration => with_unit(parse_duration, "a duration, as \"100ms\" or \"5s\""),
        OptionType::Size if !field.is_int() => with_unit(parse_size, "a size, as \"64KiB\" or \"1MiB\""),
        _ => field.int(),
    }
}

fn default(field: &Field<'_>, kind: OptionType) -> Result<Value> {
    Ok(match kind {
        OptionType::Bool => Value::Bool(field.bool()?),
        OptionType::Int | OptionType::Duration | OptionType::Size => Value::Int(number(field, kind)?),
        OptionType::Path | OptionType::String | OptionType::Enum => Value::Text(field.line_of_text(MAX_HELP)?),
        OptionType::List => {
            let items = field.array(MAX_LIST)?;
            Value::List(items.iter().map(|f| f.line_of_text(MAX_TEXT)).collect::<Result<_>>()?)
        }
    })
}

//! Values bound to a statement, as the server itself would write them.
//!
//! A value in text format is taken as it is, whatever its type. In binary format it is decoded if its type is known and is
//! one of those below; everything else is shown as `oid 600 \x0011…`, type and bytes. All of them become one JSON array of
//! strings and `null`: numbers too, so that a value does not depend on the format in which the client chose to send it, and
//! none loses digits in a reader.

use crate::asked::Fields;
use crate::numbers;
use std::fmt::Write as _;

/// Most bytes of all the values of one execution; with escapes the text is longer.
const MOST: usize = 1 << 20;

/// What a Bind message says of values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    /// A JSON array.
    pub json: String,
    /// How many the client said there are.
    pub count: u16,
    /// Some of them, or parts of them, did not come.
    pub partial: bool,
}

/// Reads formats and values; `types` are the OIDs as far as they are known.
pub fn read(fields: &mut Fields<'_>, types: &[u32]) -> Values {
    let mut values = Values { json: "[".to_owned(), ..Values::default() };
    let all = read_into(fields, types, &mut values);
    values.partial |= all.is_none();
    values.json.push(']');
    values
}

fn read_into(fields: &mut Fields<'_>, types: &[u32], values: &mut Values) -> Option<()> {
    let formats = fields.u16()?;
    let formats: Vec<u16> = (0..formats).map_while(|_| fields.u16()).collect();
    values.count = fields.u16()?;
    for number in 0..usize::from(values.count) {
        let length = fields.i32()?;
        if number > 0 {
            values.json.push(',');
        }
        if length < 0 {
            values.json.push_str("null");
            continue;
        }
        let length = usize::try_from(length).ok()?;
        let whole = fields.bytes(length);
        // What was cut is shown as far as it came.
        let bytes = whole.unwrap_or(fields.0);
        if values.json.len() > MOST {
            values.json.push_str("null");
            values.partial = true;
            continue;
        }
        let format = if formats.len() == 1 { formats.first() } else { formats.get(number) };
        let binary = format.is_some_and(|format| *format == 1);
        let oid = types.get(number).copied().unwrap_or(0);
        let text = if binary { decode(oid, bytes) } else { plain(bytes) };
        json_string(&text, &mut values.json);
        whole?;
    }
    Some(())
}

/// Text as it is, or its bytes if it is none.
fn plain(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + 2);
    text.push_str("\\x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn json_string(text: &str, into: &mut String) {
    into.push('"');
    for c in text.chars() {
        match c {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '\r' => into.push_str("\\r"),
            '\t' => into.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(into, "\\u{:04x}", u32::from(c));
            }
            c => into.push(c),
        }
    }
    into.push('"');
}

/// A value in binary format.
fn decode(oid: u32, bytes: &[u8]) -> String {
    scalar(oid, bytes).or_else(|| array(oid, bytes)).unwrap_or_else(|| format!("oid {oid} {}", hex(bytes)))
}

/// OIDs of `pg_type`, which never change.
fn scalar(oid: u32, bytes: &[u8]) -> Option<String> {
    let mut fields = Fields(bytes);
    let text = match oid {
        16 => match bytes {
            [0] => "f".to_owned(),
            [_] => "t".to_owned(),
            _ => return None,
        },
        17 => return Some(hex(bytes)),
        20 => fields.i64()?.to_string(),
        21 => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        23 => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        26 | 28 => fields.u32()?.to_string(),
        // "char", name, text, json, xml, unknown, bpchar, varchar: their bytes are their text.
        18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043 => return Some(plain(bytes)),
        // jsonb has a version before its text.
        3802 => {
            let (version, text) = bytes.split_first()?;
            return (*version == 1).then(|| plain(text));
        }
        700 => numbers::float4(f32::from_be_bytes(bytes.try_into().ok()?)),
        701 => numbers::float8(f64::from_be_bytes(bytes.try_into().ok()?)),
        1700 => {
            let groups = fields.u16()?;
            let weight = fields.u16()?.cast_signed();
            let (sign, scale) = (fields.u16()?, fields.u16()?);
            let groups: Option<Vec<u16>> = (0..groups).map(|_| fields.u16()).collect();
            numbers::numeric(&groups?, weight, sign, scale)?
        }
        1082 => numbers::date(fields.i32()?),
        1083 => numbers::time(fields.i64().filter(|micros| (0..=86_400_000_000).contains(micros))?),
        1266 => {
            let micros = fields.i64().filter(|micros| (0..=86_400_000_000).contains(micros))?;
            numbers::time(micros) + &numbers::zone(fields.i32()?)
        }
        1114 => numbers::timestamp(fields.i64()?, ""),
        1184 => numbers::timestamp(fields.i64()?, "+00"),
        1186 => {
            let (micros, days, months) = (fields.i64()?, fields.i32()?, fields.i32()?);
            numbers::interval(micros, days, months)
        }
        2950 => uuid(bytes)?,
        650 | 869 => return network(bytes, oid == 650),
        _ => return None,
    };
    // More bytes than the type has are not of this type.
    let size = match oid {
        16 => 1,
        21 => 2,
        23 | 26 | 28 | 700 | 1082 => 4,
        20 | 701 | 1083 | 1114 | 1184 => 8,
        1266 => 12,
        1186 | 2950 => 16,
        _ => bytes.len(),
    };
    (bytes.len() == size && (oid != 1700 || fields.0.is_empty())).then_some(text)
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let digits = hex(&bytes);
    let digits = digits.get(2..)?;
    let parts: Option<Vec<&str>> = [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().map(|r| digits.get(r)).collect();
    Some(parts?.join("-"))
}

/// inet and cidr: family (2, or 3 for IPv6), bits of the network, whether it is a cidr, length, address.
fn network(bytes: &[u8], cidr: bool) -> Option<String> {
    let (head, address) = bytes.split_first_chunk::<4>()?;
    let [family, bits, _, length] = *head;
    if usize::from(length) != address.len() {
        return None;
    }
    let (text, most) = match family {
        2 => (std::net::Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).to_string(), 32),
        3 => (std::net::Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).to_string(), 128),
        _ => return None,
    };
    Some(if bits == most && !cidr { text } else { format!("{text}/{bits}") })
}

/// Element types of the array types that are read.
fn element_of(oid: u32) -> Option<u32> {
    Some(match oid {
        1000 => 16,
        1001 => 17,
        1005 => 21,
        1007 => 23,
        1016 => 20,
        1021 => 700,
        1022 => 701,
        1009 => 25,
        1015 => 1043,
        1014 => 1042,
        1231 => 1700,
        1182 => 1082,
        1183 => 1083,
        1115 => 1114,
        1185 => 1184,
        1187 => 1186,
        2951 => 2950,
        199 => 114,
        3807 => 3802,
        1041 => 869,
        1028 => 26,
        _ => return None,
    })
}

/// One-dimensional arrays, as `{1,NULL,"a b"}`.
fn array(oid: u32, bytes: &[u8]) -> Option<String> {
    let element = element_of(oid)?;
    let mut fields = Fields(bytes);
    let (dimensions, _nulls, said) = (fields.i32()?, fields.i32()?, fields.u32()?);
    if said != element {
        return None;
    }
    if dimensions == 0 {
        return fields.0.is_empty().then(|| "{}".to_owned());
    }
    let (count, lower) = (fields.u32()?, fields.i32()?);
    if dimensions != 1 || lower != 1 {
        return None;
    }
    let mut text = "{".to_owned();
    for number in 0..count {
        if number > 0 {
            text.push(',');
        }
        match usize::try_from(fields.i32()?) {
            Err(_) => text.push_str("NULL"),
            Ok(length) => quote(&scalar(element, fields.bytes(length)?)?, &mut text),
        }
    }
    text.push('}');
    fields.0.is_empty().then_some(text)
}

fn quote(element: &str, into: &mut String) {
    let special = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_ascii_whitespace() || c == '\x0b';
    if !element.is_empty() && !element.eq_ignore_ascii_case("null") && !element.contains(special) {
        into.push_str(element);
        return;
    }
    into.push('"');
    for c in element.chars() {
        if matches!(c, '"' | '\\') {
            into.push('\\');
        }
        into.push(c);
    }
    into.push('"');
}

#[cfg(test)]
#[path = "parameters_tests.rs"]
mod tests;

//! Bytes as hex digits in JSON.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Bytes that are written in JSON as lower-case hex digits, two a byte.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hex(pub Vec<u8>);

impl Hex {
    /// Reads hex digits of either case.
    ///
    /// # Errors
    ///
    /// What is wrong, for a message: an odd number of digits, or something that is no digit.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return Err("an odd number of hex digits");
        }
        let mut bytes = Vec::with_capacity(digits.len() / 2);
        for pair in digits.chunks_exact(2) {
            match (pair.first().copied().and_then(digit), pair.get(1).copied().and_then(digit)) {
                (Some(high), Some(low)) => bytes.push(high << 4 | low),
                _ => return Err("something that is not a hex digit"),
            }
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hex({self})")
    }
}

impl From<Vec<u8>> for Hex {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let all = Hex((0..=255).collect());
        assert_eq!(Hex::parse(&all.to_string()), Ok(all.clone()));
        assert_eq!(Hex::parse(&all.to_string().to_uppercase()), Ok(all));
        assert_eq!(Hex::parse(""), Ok(Hex::default()));
    }

    #[test]
    fn what_is_not_hex_is_refused() {
        assert!(Hex::parse("abc").is_err());
        assert!(Hex::parse("0g").is_err());
        assert!(Hex::parse("+1").is_err());
        assert!(Hex::parse("é").is_err());
    }
}

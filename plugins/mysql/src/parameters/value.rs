//! One value in the binary protocol: its type says how many bytes it has and what they mean. A type that the protocol has
//! no form for stops the reading: nobody can say where the next value begins.

use super::{Json, Reader, Stop, Type, to_u64};

mod code {
    pub const DECIMAL: u8 = 0;
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const DATE: u8 = 10;
    pub const TIME: u8 = 11;
    pub const DATETIME: u8 = 12;
    pub const VARCHAR: u8 = 15;
    /// MySQL 9.
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const GEOMETRY: u8 = 255;
}

impl Reader<'_> {
    /// Reads one value. `missing`: bytes of the packet behind those that are here. One that can't be read or shown is not
    /// taken.
    pub fn value(&mut self, kind: Type, missing: u64, json: &mut Json) -> Result<(), Stop> {
        let before = self.at;
        self.known(kind, missing, json).inspect_err(|_| self.at = before)
    }

    /// A value whose length is that of all there is, and of `missing` bytes behind it: nothing says it here.
    pub fn content(&mut self, kind: Type, missing: u64, json: &mut Json) -> Result<(), Stop> {
        let bytes = self.bytes;
        let len = if missing == 0 { u8::try_from(bytes.len()).unwrap_or(u8::MAX) } else { u8::MAX };
        let size = match kind.code {
            code::DECIMAL | code::VARCHAR | code::VECTOR | code::JSON..=code::GEOMETRY => {
                return json.bytes(bytes, missing);
            }
            _ if missing > 0 => return Err(Stop::End),
            code::DATE | code::DATETIME | code::TIMESTAMP => return self.date(kind.code, len, json),
            code::TIME => return self.time(len, json),
            code::TINY => 1,
            code::SHORT => 2,
            code::LONG | code::FLOAT => 4,
            code::LONGLONG | code::DOUBLE => 8,
            _ => return Err(Stop::Strange),
        };
        if bytes.len() == size { self.known(kind, 0, json) } else { Err(Stop::Strange) }
    }

    fn known(&mut self, kind: Type, missing: u64, json: &mut Json) -> Result<(), Stop> {
        let signed = !kind.unsigned;
        match kind.code {
            code::TINY if signed => json.number(&i8::from_le_bytes(self.array()?)),
            code::TINY => json.number(&u8::from_le_bytes(self.array()?)),
            code::SHORT if signed => json.number(&i16::from_le_bytes(self.array()?)),
            code::SHORT => json.number(&u16::from_le_bytes(self.array()?)),
            code::LONG if signed => json.number(&i32::from_le_bytes(self.array()?)),
            code::LONG => json.number(&u32::from_le_bytes(self.array()?)),
            code::LONGLONG if signed => json.number(&i64::from_le_bytes(self.array()?)),
            code::LONGLONG => json.number(&u64::from_le_bytes(self.array()?)),
            code::FLOAT => {
                let number = f32::from_le_bytes(self.array()?);
                json.float(number.is_finite(), &number)
            }
            code::DOUBLE => {
                let number = f64::from_le_bytes(self.array()?);
                json.float(number.is_finite(), &number)
            }
            code::DATE | code::DATETIME | code::TIMESTAMP => {
                let len = self.byte().ok_or(Stop::End)?;
                self.date(kind.code, len, json)
            }
            code::TIME => {
                let len = self.byte().ok_or(Stop::End)?;
                self.time(len, json)
            }
            // VARCHAR, and from JSON on all that are texts, names or bytes.
            code::DECIMAL | code::VARCHAR | code::JSON..=code::GEOMETRY => self.string(missing, json),
            _ => Err(Stop::Strange),
        }
    }

    fn string(&mut self, missing: u64, json: &mut Json) -> Result<(), Stop> {
        let len = self.length()?;
        let left = self.bytes.get(self.at..).unwrap_or_default();
        let have = usize::try_from(len).unwrap_or(usize::MAX).min(left.len());
        let lacks = len.saturating_sub(to_u64(have));
        // Longer than the packet itself.
        if lacks > missing {
            return Err(Stop::Strange);
        }
        json.bytes(left.get(..have).unwrap_or_default(), lacks)?;
        self.at = self.at.saturating_add(have);
        self.told = self.told.saturating_add(lacks);
        Ok(())
    }

    /// A length-encoded integer.
    fn length(&mut self) -> Result<u64, Stop> {
        let first = self.byte().ok_or(Stop::End)?;
        match first {
            0..=250 => Ok(first.into()),
            252 => Ok(u16::from_le_bytes(self.array()?).into()),
            253 => {
                let [a, b, c] = self.array()?;
                Ok(u32::from_le_bytes([a, b, c, 0]).into())
            }
            254 => Ok(u64::from_le_bytes(self.array()?)),
            251 | 255 => Err(Stop::Strange),
        }
    }

    /// Year, month, day; hour, minute, second; microseconds; MySQL: minutes from UTC. As many as the length says.
    fn date(&mut self, code: u8, len: u8, json: &mut Json) -> Result<(), Stop> {
        if !matches!(len, 0 | 4 | 7 | 11 | 13) {
            return Err(Stop::Strange);
        }
        let [year, month, day] = match len {
            0 => [0; 3],
            _ => {
                let [low, high, month, day] = self.array()?;
                [u16::from_le_bytes([low, high]), month.into(), day.into()]
            }
        };
        let mut text = format!("{year:04}-{month:02}-{day:02}");
        if len >= 7 {
            let [hour, minute, second] = self.array()?;
            text += &format!(" {hour:02}:{minute:02}:{second:02}");
        } else if code != code::DATE {
            text += " 00:00:00";
        }
        if len >= 11 {
            text += &format!(".{:06}", u32::from_le_bytes(self.array()?));
        }
        if len == 13 {
            let minutes = i16::from_le_bytes(self.array()?);
            let (sign, minutes) = (if minutes < 0 { '-' } else { '+' }, minutes.unsigned_abs());
            text += &format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        }
        json.simple(&text)
    }

    /// Sign, days, hour, minute, second; microseconds.
    fn time(&mut self, len: u8, json: &mut Json) -> Result<(), Stop> {
        if len == 0 {
            return json.simple("00:00:00");
        }
        if !matches!(len, 8 | 12) {
            return Err(Stop::Strange);
        }
        let [negative, days @ .., hour, minute, second] = self.array::<8>()?;
        let hours = u64::from(u32::from_le_bytes(days)) * 24 + u64::from(hour);
        let sign = if negative == 0 { "" } else { "-" };
        let mut text = format!("{sign}{hours:02}:{minute:02}:{second:02}");
        if len == 12 {
            text += &format!(".{:06}", u32::from_le_bytes(self.array()?));
        }
        json.simple(&text)
    }
}

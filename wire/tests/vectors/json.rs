//! As much of JSON as the vectors need, written so that a change is a line in a diff.
//!
//! 64-bit integers are strings of decimals, since many languages' JSON numbers are doubles; bytes are strings of hex digits.

use std::fmt::Write;

/// A value as JSON text.
pub trait Json {
    fn json(&self) -> String;
}

macro_rules! plain {
    ($($type:ty)*) => { $(impl Json for $type { fn json(&self) -> String { self.to_string() } })* };
}
plain!(bool u8 u16 u32);

impl Json for i64 {
    fn json(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Json for u64 {
    fn json(&self) -> String {
        format!("\"{self}\"")
    }
}

impl Json for str {
    fn json(&self) -> String {
        let mut out = String::from('"');
        for c in self.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                c if c < ' ' => write!(out, "\\u{:04x}", c as u32).expect("a String takes all"),
                c => out.push(c),
            }
        }
        out + "\""
    }
}

impl Json for String {
    fn json(&self) -> String {
        self.as_str().json()
    }
}

impl Json for [u8] {
    fn json(&self) -> String {
        format!("\"{}\"", hex(self))
    }
}

impl<T: Json + ?Sized> Json for &T {
    fn json(&self) -> String {
        (**self).json()
    }
}

impl<T: Json> Json for Option<T> {
    fn json(&self) -> String {
        self.as_ref().map_or("null".to_string(), Json::json)
    }
}

impl<T: Json> Json for Vec<T> {
    fn json(&self) -> String {
        format!("[{}]", self.iter().map(Json::json).collect::<Vec<_>>().join(", "))
    }
}

/// Text that is JSON already.
pub struct Raw(pub String);

impl Json for Raw {
    fn json(&self) -> String {
        self.0.clone()
    }
}

/// `fields!(value; a, b)` is the object of the fields `a` and `b` of `value`; `fields!(a: x, b: y)` spells them out.
macro_rules! fields {
    ($value:expr; $($field:ident),* $(,)?) => { $crate::json::fields!($($field: &$value.$field),*) };
    ($($field:ident: $value:expr),* $(,)?) => {{
        let fields: Vec<String> =
            vec![$(format!("{}: {}", $crate::json::Json::json(stringify!($field)), $crate::json::Json::json(&$value))),*];
        format!("{{{}}}", fields.join(", "))
    }};
}
pub(crate) use fields;

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes all");
        out
    })
}

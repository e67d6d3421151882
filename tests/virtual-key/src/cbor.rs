//! The little of CBOR that CTAP2 speaks, as a tree: requests are small and come one at a time.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

/// CTAP2 allows four levels (CTAP 2.1 section 8).
const MAX_DEPTH: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Int(i64),
    Bytes(Vec<u8>),
    Text(String),
    Bool(bool),
    Array(Vec<Value>),
    /// In the order in which it is written; ours are written canonically.
    Map(Vec<(Value, Value)>),
}

impl Value {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes);
        let value = read(&mut decoder, MAX_DEPTH)?;
        (decoder.position() == bytes.len()).then_some(value)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(self, &mut Encoder::new(&mut bytes)).expect("writing to a vector cannot fail");
        bytes
    }

    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A map with these members, which stand in canonical order already.
    pub(crate) fn map<K: Into<Value>, const N: usize>(members: [(K, Value); N]) -> Self {
        Self::Map(members.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    pub(crate) fn member(&self, key: impl Into<Value>) -> Option<&Value> {
        let key = key.into();
        match self {
            Self::Map(members) => members.iter().find(|(name, _)| *name == key).map(|(_, value)| value),
            Self::Int(_) | Self::Bytes(_) | Self::Text(_) | Self::Bool(_) | Self::Array(_) => None,
        }
    }

    pub(crate) const fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bytes(_) | Self::Text(_) | Self::Bool(_) | Self::Array(_) | Self::Map(_) => None,
        }
    }

    pub(crate) fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(value) => Some(value),
            Self::Int(_) | Self::Text(_) | Self::Bool(_) | Self::Array(_) | Self::Map(_) => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            Self::Int(_) | Self::Bytes(_) | Self::Bool(_) | Self::Array(_) | Self::Map(_) => None,
        }
    }

    pub(crate) const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Int(_) | Self::Bytes(_) | Self::Text(_) | Self::Array(_) | Self::Map(_) => None,
        }
    }

    pub(crate) fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(value) => Some(value),
            Self::Int(_) | Self::Bytes(_) | Self::Text(_) | Self::Bool(_) | Self::Map(_) => None,
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::text(value)
    }
}

fn read(decoder: &mut Decoder<'_>, depth: usize) -> Option<Value> {
    let inner = depth.checked_sub(1);
    match decoder.datatype().ok()? {
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64
        | Type::Int => decoder.i64().ok().map(Value::Int),
        Type::Bytes => decoder.bytes().ok().map(|bytes| Value::Bytes(bytes.to_vec())),
        Type::String => decoder.str().ok().map(Value::text),
        Type::Bool => decoder.bool().ok().map(Value::Bool),
        Type::Array => {
            let length = decoder.array().ok()??;
            (0..length).map(|_| read(decoder, inner?)).collect::<Option<_>>().map(Value::Array)
        }
        Type::Map => {
            let length = decoder.map().ok()??;
            let member = |_| Some((read(decoder, inner?)?, read(decoder, inner?)?));
            (0..length).map(member).collect::<Option<_>>().map(Value::Map)
        }
        Type::Null
        | Type::Undefined
        | Type::F16
        | Type::F32
        | Type::F64
        | Type::Simple
        | Type::BytesIndef
        | Type::StringIndef
        | Type::ArrayIndef
        | Type::MapIndef
        | Type::Tag
        | Type::Break
        | Type::Unknown(_) => None,
    }
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write(value: &Value, encoder: &mut Encoder<&mut Vec<u8>>) -> Written {
    match value {
        Value::Int(value) => encoder.i64(*value)?,
        Value::Bytes(value) => encoder.bytes(value)?,
        Value::Text(value) => encoder.str(value)?,
        Value::Bool(value) => encoder.bool(*value)?,
        Value::Array(values) => {
            encoder.array(values.len() as u64)?;
            return values.iter().try_for_each(|value| write(value, encoder));
        }
        Value::Map(members) => {
            encoder.map(members.len() as u64)?;
            return members.iter().try_for_each(|(key, value)| {
                write(key, encoder)?;
                write(value, encoder)
            });
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let value = Value::map([
            (1, Value::Array(vec![Value::text("x"), Value::Bool(true)])),
            (-2, Value::map([("rk", Value::Bytes(vec![7; 300]))])),
        ]);
        assert_eq!(Value::decode(&value.encode()), Some(value));
    }

    #[test]
    fn too_deep_too_long_and_unfinished_are_no_values() {
        assert_eq!(Value::decode(&[0x81, 0x81, 0x81, 0x81, 0x81, 0x01]), None);
        assert_eq!(Value::decode(&[0x01, 0x01]), None);
        assert_eq!(Value::decode(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(Value::decode(&[0x58, 0x05, 0x01]), None);
    }
}

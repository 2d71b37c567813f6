//! What a response leaves out: Coze's servers omit an empty list, or write null.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor, value::SeqDeserializer},
    forward_to_deserialize_any,
};

/// Deserializes null as the default. With `#[serde(default)]`, a field that is missing has it too.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct BotPage {
///     #[serde(default, deserialize_with = "coze_wire::null_is_default")]
///     items: Vec<String>,
/// }
///
/// for page in ["{}", r#"{"items":null}"#] {
///     assert!(serde_json::from_str::<BotPage>(page)?.items.is_empty());
/// }
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
///
/// When the value is neither null nor a `T`.
pub fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The `data` of an envelope. If it is missing or null, a list is empty and an option is `None`; other types are an
/// error.
///
/// ```
/// use coze_wire::EnvelopeData;
///
/// #[derive(serde::Deserialize)]
/// struct Envelope<T> {
///     data: EnvelopeData<T>,
/// }
///
/// let envelope: Envelope<Vec<i64>> = serde_json::from_str("{}")?;
/// assert!(envelope.data.0.is_empty());
/// assert!(serde_json::from_str::<Envelope<String>>("{}").is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeData<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for EnvelopeData<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_option(OrAbsent(PhantomData))
            .map(Self)
    }
}

struct OrAbsent<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OrAbsent<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data")
    }

    fn visit_none<E: Error>(self) -> Result<T, E> {
        T::deserialize(Absent(PhantomData))
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        self.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(deserializer)
    }
}

/// Deserializes only what can be absent.
struct Absent<E>(PhantomData<E>);

impl<'de, E: Error> Deserializer<'de> for Absent<E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, E> {
        Err(E::missing_field("data"))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<()>()))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

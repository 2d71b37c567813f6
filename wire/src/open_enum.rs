//! [`open_enum!`](crate::open_enum): enums of words to which a server may add.

/// Declares an enum of words with an additional variant for words that are not listed. It is parsed from a word, and
/// serialised as the same word.
///
/// ```
/// coze_wire::open_enum! {
///     /// The state of a chat.
///     ChatStatus {
///         Completed = "completed",
///         InProgress = "in_progress",
///     }
/// }
///
/// assert_eq!(serde_json::from_str::<ChatStatus>("\"completed\"")?, ChatStatus::Completed);
/// let new: ChatStatus = serde_json::from_str("\"paused\"")?;
/// assert_eq!(new, ChatStatus::Other("paused".into()));
/// assert_eq!(serde_json::to_string(&new)?, "\"paused\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[macro_export]
macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(
                $(#[$of])*
                #[doc = concat!("`", $word, "`")]
                $variant,
            )*
            /// A word that this version of the crate does not know.
            Other(::std::string::String),
        }

        impl $name {
            /// The word.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl ::std::convert::From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl ::std::convert::From<::std::string::String> for $name {
            fn from(word: ::std::string::String) -> Self {
                Self::from(word.as_str())
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::serde::Serialize for $name {
            fn serialize<S: $crate::serde::Serializer>(&self, to: S) -> ::std::result::Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> $crate::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::serde::Deserializer<'de>>(from: D) -> ::std::result::Result<Self, D::Error> {
                let word = <::std::borrow::Cow<'de, str> as $crate::serde::Deserialize<'de>>::deserialize(from)?;
                ::std::result::Result::Ok(Self::from(&*word))
            }
        }
    };
}

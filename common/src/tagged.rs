//! Enums whose variants are stored under explicit tags instead of their positions.
//!
//! A tag is written once, beside its variant. It never changes and is never reused, so variants can be added, moved and
//! removed without changing the meaning of stored values. An unknown tag is an error that names the enum and the tag,
//! because a newer version wrote it.

/// Declares an enum and how it is stored: each variant as its tag and its fields.
///
/// ```
/// common::tagged! {
///     /// What is done.
///     #[derive(Debug, PartialEq)]
///     pub enum Step {
///         /// Go on.
///         1 => On,
///         /// Stop after a while.
///         3 => Stop {
///             /// Seconds.
///             after: u32,
///         },
///         /// Say something.
///         4 => Say(text: String),
///     }
/// }
/// # use common::codec::{decode, encode};
/// assert_eq!(encode(&Step::Stop { after: 7 }).expect("it is small"), [3, 7]);
/// assert_eq!(decode::<Step>(&[3, 7]).expect("it is whole"), Step::Stop { after: 7 });
/// let unknown = decode::<Step>(&[2, 7]).unwrap_err().to_string();
/// assert!(unknown.contains("Step has no variant with the tag 2"), "{unknown}");
/// ```
#[macro_export]
macro_rules! tagged {
    (
        $(#[$about_enum:meta])*
        $visibility:vis enum $name:ident {
            $(
                $(#[$about:meta])*
                $tag:literal => $variant:ident
                $( ( $only:ident : $only_type:ty ) )?
                $( { $( $(#[$about_field:meta])* $field:ident : $field_type:ty ),* $(,)? } )?
            ),* $(,)?
        }
    ) => {
        $(#[$about_enum])*
        $visibility enum $name {
            $(
                $(#[$about])*
                $variant $( ( $only_type ) )? $( { $( $(#[$about_field])* $field : $field_type ),* } )?
            ),*
        }

        impl $name {
            /// The tag under which the variant is stored.
            $visibility fn tag(&self) -> u16 {
                match self {
                    $( Self::$variant { .. } => $tag ),*
                }
            }

            /// What the variant with a tag is called in this version.
            $visibility fn name_of(tag: u16) -> Option<&'static str> {
                match tag {
                    $( $tag => Some(stringify!($variant)), )*
                    _ => None,
                }
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> ::std::result::Result<S::Ok, S::Error> {
                use ::serde::ser::SerializeTuple as _;
                match self {
                    $( Self::$variant $( ( $only ) )? $( { $($field),* } )? => {
                        const FIELDS: &[&str] = &[$( stringify!($only) )? $( $( stringify!($field) ),* )?];
                        const { assert!(FIELDS.len() <= $crate::tagged::MOST_FIELDS, "a variant has too many fields") };
                        let mut tuple = serializer.serialize_tuple(1 + FIELDS.len())?;
                        tuple.serialize_element::<u16>(&$tag)?;
                        $( tuple.serialize_element($only)?; )?
                        $( $( tuple.serialize_element($field)?; )* )?
                        tuple.end()
                    } )*
                }
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> ::std::result::Result<Self, D::Error> {
                struct Tagged;

                impl<'de> ::serde::de::Visitor<'de> for Tagged {
                    type Value = $name;

                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str(concat!("a tag of ", stringify!($name), " and its fields"))
                    }

                    fn visit_seq<A: ::serde::de::SeqAccess<'de>>(
                        self,
                        mut fields: A,
                    ) -> ::std::result::Result<$name, A::Error> {
                        use ::serde::de::Error as _;
                        let missing = || A::Error::custom(concat!("a field of ", stringify!($name), " is missing"));
                        let tag: u16 = fields.next_element()?.ok_or_else(missing)?;
                        match tag {
                            $( $tag => {
                                $( let $only: $only_type = fields.next_element()?.ok_or_else(missing)?; )?
                                $( $( let $field: $field_type = fields.next_element()?.ok_or_else(missing)?; )* )?
                                Ok($name::$variant $( ( $only ) )? $( { $($field),* } )?)
                            } )*
                            unknown => Err(A::Error::custom(format!(
                                "{} has no variant with the tag {unknown}{}",
                                stringify!($name),
                                $crate::codec::NEWER,
                            ))),
                        }
                    }
                }

                // A tag followed by the fields of the variant.
                deserializer.deserialize_tuple(1 + $crate::tagged::MOST_FIELDS, Tagged)
            }
        }
    };
}

/// The maximum number of fields of a variant.
pub const MOST_FIELDS: usize = 16;

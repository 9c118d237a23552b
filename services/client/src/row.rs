//! What a row is, and the macro that declares one: a struct, its JSON, its CSV columns and its table.

use std::fmt;

/// One line of output.
pub trait Row: serde::Serialize {
    /// Every column, in the order of CSV and JSON.
    const COLUMNS: &'static [&'static str];

    /// The columns that a table shows, by their place in [`COLUMNS`](Self::COLUMNS).
    const TABLE: &'static [usize];

    /// Writes one column's value as in JSON, or as people read it; nothing where it is absent.
    fn show(&self, column: usize, for_people: bool, out: &mut dyn fmt::Write) -> fmt::Result;
}

/// The places of some columns among all.
pub(crate) const fn places<const N: usize>(columns: &[&str], wanted: [&str; N]) -> [usize; N] {
    let mut places = [0; N];
    let mut next = 0;
    while next < N {
        let mut at = 0;
        while !equal(columns[at], wanted[next]) {
            at += 1;
        }
        places[next] = at;
        next += 1;
    }
    places
}

const fn equal(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Declares a row. `number` fields are counts, `flag` fields true or false, `text` fields anything else; `some_number`,
/// `some_flag` and `maybe` are those that can be absent.
macro_rules! row {
    (
        $(#[$meta:meta])*
        $name:ident, table: [$($shown:ident)*] {
            $($(#[$doc:meta])* $field:ident: $mode:ident $type:ty,)*
        }
    ) => {
        row! { @struct [$(#[$meta])*] $name [] $($(#[$doc])* $field: $mode $type,)* }

        impl $crate::row::Row for $name {
            const COLUMNS: &'static [&'static str] = &[$(stringify!($field)),*];
            const TABLE: &'static [usize] =
                &$crate::row::places(Self::COLUMNS, [$(stringify!($shown)),*]);

            fn show(&self, column: usize, for_people: bool, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
                let mut at = 0..;
                $(if at.next() == Some(column) {
                    return row!(@show $mode self.$field, for_people, out);
                })*
                Ok(())
            }
        }
    };
    (@struct [$($meta:tt)*] $name:ident [$($done:tt)*]) => {
        $($meta)*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name { $($done)* }
    };
    (@struct $meta:tt $name:ident [$($done:tt)*] $(#[$doc:meta])* $field:ident: number $type:ty, $($rest:tt)*) => {
        row! { @struct $meta $name [
            $($done)* $(#[$doc])* #[serde(with = "crate::cell::number")] pub $field: $type,
        ] $($rest)* }
    };
    (@struct $meta:tt $name:ident [$($done:tt)*] $(#[$doc:meta])* $field:ident: text $type:ty, $($rest:tt)*) => {
        row! { @struct $meta $name [
            $($done)* $(#[$doc])* #[serde(with = "crate::cell::text")] pub $field: $type,
        ] $($rest)* }
    };
    (@struct $meta:tt $name:ident [$($done:tt)*] $(#[$doc:meta])* $field:ident: some_number $type:ty, $($rest:tt)*) => {
        row! { @struct $meta $name [
            $($done)* $(#[$doc])*
            #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::cell::some_number")]
            pub $field: Option<$type>,
        ] $($rest)* }
    };
    (@struct $meta:tt $name:ident [$($done:tt)*] $(#[$doc:meta])* $field:ident: maybe $type:ty, $($rest:tt)*) => {
        row! { @struct $meta $name [
            $($done)* $(#[$doc])*
            #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::cell::maybe")]
            pub $field: Option<$type>,
        ] $($rest)* }
    };
    (@struct $meta:tt $name:ident [$($done:tt)*] $(#[$doc:meta])* $field:ident: flag $type:ty, $($rest:tt)*) => {
        row! { @struct $meta $name [
            $($done)* $(#[$doc])* pub $field: $type,
        ] $($rest)* }
    };
    (@struct $meta:tt $name:ident [$($done:tt)*] $(#[$doc:meta])* $field:ident: some_flag $type:ty, $($rest:tt)*) => {
        row! { @struct $meta $name [
            $($done)* $(#[$doc])*
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $field: Option<$type>,
        ] $($rest)* }
    };
    (@show some_flag $value:expr, $for_people:ident, $out:ident) => {
        row!(@show maybe $value, $for_people, $out)
    };
    (@show some_number $value:expr, $for_people:ident, $out:ident) => {
        row!(@show maybe $value, $for_people, $out)
    };
    (@show maybe $value:expr, $for_people:ident, $out:ident) => {
        match &$value {
            Some(value) => row!(@show text *value, $for_people, $out),
            None => Ok(()),
        }
    };
    (@show $mode:ident $value:expr, $for_people:ident, $out:ident) => {
        if $for_people {
            $crate::cell::Cell::show_in_table(&$value, $out)
        } else {
            $crate::cell::Cell::show(&$value, $out)
        }
    };
}
pub(crate) use row;

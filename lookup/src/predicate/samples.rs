//! Any predicate, for property tests.

use proptest::prelude::*;

use crate::predicate::number::number;
use crate::predicate::{Comparison, Literal, Predicate, Test};

/// A predicate within all limits, whose groups have none or several members.
pub(crate) fn predicate() -> impl Strategy<Value = Predicate> {
    let leaf = prop_oneof![
        8 => comparison().prop_map(Predicate::Compare),
        1 => Just(Predicate::And(Vec::new())),
        1 => Just(Predicate::Or(Vec::new())),
    ];
    leaf.prop_recursive(5, 60, 4, |member| {
        let members = prop::collection::vec(member, 2..5);
        prop_oneof![
            members.clone().prop_map(Predicate::And),
            members.prop_map(Predicate::Or),
        ]
    })
}

/// Any literal, of the kind that its text makes.
pub(crate) fn literal() -> impl Strategy<Value = Literal> {
    let any_number = "-?[0-9]{1,25}(\\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?|nan|-?inf";
    prop_oneof![
        any::<bool>().prop_map(Literal::Boolean),
        any::<i64>().prop_map(Literal::Integer),
        any_number.prop_map(|text| number(&text).expect("it is one")),
        text().prop_map(|text| Literal::Text(text.into())),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| Literal::Binary(bytes.into())),
    ]
}

fn comparison() -> impl Strategy<Value = Comparison> {
    let column = prop_oneof![
        "[a-z_]{1,4}(\\.[a-z0-9]{1,3}){0,2}",
        "and|or|date|nan|true|starts_with|x|where|in\\.not",
        any::<String>(),
        ".{0,3}\"?\\.?.{0,3}",
    ];
    let prefix = literal().prop_filter("text or bytes", |literal| {
        matches!(literal, Literal::Text(_) | Literal::Binary(_))
    });
    let test = prop_oneof![
        literal().prop_map(Test::Equal),
        literal().prop_map(Test::NotEqual),
        literal().prop_map(Test::Less),
        literal().prop_map(Test::LessOrEqual),
        literal().prop_map(Test::Greater),
        literal().prop_map(Test::GreaterOrEqual),
        prop::collection::vec(literal(), 0..4).prop_map(Test::In),
        prefix.prop_map(Test::Prefix),
        Just(Test::IsNull),
        Just(Test::IsNotNull),
    ];
    (column, test).prop_map(|(column, test)| Comparison { column, test })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a'%_\\\\0-9-]{0,6}", "1995-0[1-9]-01"]
}

impl Test {
    /// The literals that a value is compared with.
    pub(crate) fn literals_mut(&mut self) -> &mut [Literal] {
        match self {
            Test::Equal(literal)
            | Test::NotEqual(literal)
            | Test::Less(literal)
            | Test::LessOrEqual(literal)
            | Test::Greater(literal)
            | Test::GreaterOrEqual(literal)
            | Test::Prefix(literal) => std::slice::from_mut(literal),
            Test::In(literals) => literals,
            Test::IsNull | Test::IsNotNull => &mut [],
        }
    }
}

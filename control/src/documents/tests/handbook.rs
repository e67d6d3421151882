//! What the documentation shows is what is taken: its documents are in order, and every field stands in it.

use super::{Document, check_set, context, lines, parsed};
use crate::documents::{resource, role};

const README: &str = include_str!("../../../../README.md");
const ADMINISTRATION: &str = include_str!("../../../../docs/administration.md");

/// The documents of a text, all of them without a warning.
fn documents_of(text: &str) -> Vec<Document> {
    let blocks = text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let documents: Vec<Document> = blocks
        .flat_map(|yaml| {
            let parsed = parsed(yaml);
            assert_eq!(lines(&parsed.warnings), [""; 0], "{yaml}");
            parsed.documents
        })
        .collect();
    assert!(!documents.is_empty(), "it shows no documents");
    documents
}

#[test]
fn the_documents_that_are_shown_are_in_order() {
    for text in [README, ADMINISTRATION] {
        let documents = documents_of(text);
        let warnings =
            check_set(&documents, &context()).unwrap_or_else(|faults| panic!("{:?}", lines(&faults)));
        assert_eq!(lines(&warnings), [""; 0]);
    }
}

#[test]
fn every_field_is_in_the_administrator_s_guide() {
    for shape in [role::OPTIONS, resource::SPEC, resource::MFA] {
        for field in shape.known {
            assert!(ADMINISTRATION.contains(&format!(" {field}:")), "{}.{field} is missing", shape.path);
        }
    }
}

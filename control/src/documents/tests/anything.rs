//! Texts and documents that nobody thought of.

use portlatch_protocol::ports::PortRange;
use portlatch_protocol::resource::Hold;
use proptest::prelude::*;

use super::super::resource::ResourcePorts;
use super::super::*;
use super::context;

/// Pieces of documents, so that arbitrary text gets deep into the reader.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "kind: ",
        "role",
        "db",
        "lock",
        "user",
        "vnet_config",
        "metadata: ",
        "spec: ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "\n",
        "  ",
        "---\n",
        "name: ",
        "x",
        "uri: ",
        "tcp://",
        "[::1]",
        ":",
        "5432",
        "tcp_ports: ",
        "port: ",
        "end_port: ",
        "allow: ",
        "deny: ",
        "options: ",
        "db_labels: ",
        "'*': ",
        "'*'",
        "12h",
        "&a ",
        "*a",
        "!!str ",
        "|\n",
        "> ",
        "? ",
        "- ",
        "\"",
        "'",
        "\t",
        "#",
        "target: ",
        "roles: ",
        "null",
        "~",
        "\u{feff}",
        "é",
        "%YAML 1.2\n",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Any resource that can be written.
fn any_resource() -> impl Strategy<Value = Document> {
    let label = ("[a-z*\"' :#-]{1,6}", "\\PC{0,8}");
    let ports = prop_oneof![
        (1_u16..).prop_map(|port| ResourcePorts::InUri(PortRange::single(port).unwrap())),
        prop::collection::vec((1_u16..1000, 1000_u16..), 1..4).prop_map(|ranges| {
            ResourcePorts::Listed(ranges.into_iter().map(|(a, b)| PortRange::new(a, b).unwrap()).collect())
        }),
    ];
    let labels = prop::collection::btree_map(label.0, label.1, 0..4);
    (labels, ports, "\\PC{0,20}", any::<bool>(), prop::sample::select(ResourceKind::ALL.to_vec())).prop_map(
        |(labels, ports, description, flag, kind)| {
            let header = header::Header { labels, description, ..Default::default() };
            Document::Resource(ResourceDocument {
                id: portlatch_protocol::names::ResourceId { kind, name: "x".parse().unwrap() },
                header,
                public_addr: flag.then(|| "*.x.corp".parse().unwrap()),
                protocol: flag.then(|| "ssh".to_owned()),
                target: if flag { "fd00::1" } else { "db.corp" }.to_owned(),
                ports,
                proxies: flag.then(|| {
                    labels::LabelRule::new([("a".to_owned(), vec!["b".to_owned(), "c".to_owned()])])
                }),
                mfa: resource::ResourceMfa {
                    user_verification: flag,
                    hold: flag.then_some(Hold::Syn),
                    ..Default::default()
                },
                allow_local_target: flag,
            })
        },
    )
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![pieces(), "\\PC{0,200}", "[ -~\n]{0,200}"]) {
        if let Ok(parsed) = parse("a.yaml", &text, &context()) {
            let _ = check_set(&parsed.documents, &context());
        }
    }

    #[test]
    fn every_resource_survives_json_and_yaml(document in any_resource()) {
        let json = document.to_json();
        prop_assert_eq!(&Document::from_json(&json).unwrap(), &document);
        let yaml = to_yaml(&json);
        let read = parse("a.yaml", &yaml, &context()).map_err(|faults| TestCaseError::fail(format!("{yaml}\n{faults:?}")))?;
        prop_assert_eq!(&read.documents, &vec![document], "{}", yaml);
    }
}

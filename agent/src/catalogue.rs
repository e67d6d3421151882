//! Which resource a person means: by host name or, failing that, by the resource's own name.

use portlatch_protocol::api::Catalogue;
use portlatch_protocol::names::Hostname;
use portlatch_protocol::resource::Resource;

/// The resource with this host name or, failing that, of this name.
pub(crate) fn find<'c>(catalogue: &'c Catalogue, host: &str) -> Option<&'c Resource> {
    let by_host = host.parse::<Hostname>().ok().and_then(|host| {
        let exact = |resource: &&Resource| resource.host.as_str() == host.as_str();
        let matching = |resource: &&Resource| resource.host.matches(&host);
        catalogue.resources.iter().find(exact).or_else(|| catalogue.resources.iter().find(matching))
    });
    by_host.or_else(|| catalogue.resources.iter().find(|resource| resource.id.name.as_str() == host))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use portlatch_protocol::ports::PortRange;
    use portlatch_protocol::resource::{Hold, MfaNeed, Zone};

    /// A catalogue of these resources with the port 5432, each `KIND/NAME` at a host.
    pub(crate) fn of(resources: &[(&str, &str)]) -> Catalogue {
        let resource = |(id, host): &(&str, &str)| Resource {
            id: id.parse().unwrap(),
            host: host.parse().unwrap(),
            ports: vec![PortRange::single(5432).unwrap()],
            hold: Hold::Hybrid,
            mfa: MfaNeed::Tap,
            labels: Default::default(),
            description: String::new(),
            proxies: vec!["main".parse().unwrap()],
            protocol: None,
            refusal: Default::default(),
        };
        Catalogue {
            revision: 1,
            resources: resources.iter().map(resource).collect(),
            zones: vec![Zone { suffix: "corp.internal".parse().unwrap(), exclusive: false }],
            proxies: vec![],
            outside: vec![],
        }
    }

    #[test]
    fn a_host_goes_before_a_wildcard_and_a_wildcard_before_a_name() {
        let catalogue = of(&[
            ("app/wild", "*.apps.corp.internal"),
            ("app/one", "one.apps.corp.internal"),
            ("db/billing-db", "billing.corp.internal"),
        ]);
        let found = |host| find(&catalogue, host).map(|resource| resource.id.to_string());
        assert_eq!(found("one.apps.corp.internal").as_deref(), Some("app/one"));
        assert_eq!(found("Two.apps.corp.internal").as_deref(), Some("app/wild"));
        assert_eq!(found("billing-db").as_deref(), Some("db/billing-db"));
        assert_eq!(found("apps.corp.internal"), None);
    }
}

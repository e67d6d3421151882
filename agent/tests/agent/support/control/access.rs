//! What the login may reach: the catalogue, and questions about a port.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use portlatch_protocol::api::ceremony::ExecTarget;
use portlatch_protocol::api::{AccessAnswer, AccessRequest, Catalogue};
use portlatch_protocol::ports::PortRange;
use portlatch_protocol::refusal::RefusalReason;
use portlatch_protocol::resource::{Hold, MfaNeed, ProxyAddress, Resource, Zone};
use serde_json::json;

use super::answers::grant;
use super::server::reply;
use super::{CLUSTER, State};

impl State {
    pub(super) async fn catalogue(&self, query: Option<&str>) -> Response<Full<Bytes>> {
        let after: Option<u64> =
            query.and_then(|query| query.strip_prefix("after=")).map(|n| n.parse().unwrap());
        let mut revision = self.revision.subscribe();
        let newer = revision.wait_for(|revision| after.is_none_or(|after| *revision > after));
        let revision = *newer.await.unwrap();
        let (extra, desktops, local) = {
            let story = self.story.lock().unwrap();
            (story.extra, story.desktops.clone(), story.local)
        };
        let suffix = if local.is_some() { CLUSTER } else { "corp.internal" };
        let host = |name: &str| if local.is_some() { CLUSTER.to_owned() } else { format!("{name}.{suffix}") };
        let resource = |name: &str| Resource {
            id: format!("db/{name}").parse().unwrap(),
            host: host(name).parse().unwrap(),
            ports: vec![PortRange::new(1, 65_535).unwrap()],
            hold: Hold::Hybrid,
            mfa: MfaNeed::Tap,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            description: "Billing".into(),
            proxies: vec!["main".parse().unwrap()],
            protocol: None,
            refusal: Default::default(),
        };
        let others = (0..extra).map(|n| resource(&format!("db-{n}")));
        let desktops = desktops.iter().map(|name| Resource {
            id: format!("desktop/{name}").parse().unwrap(),
            ports: vec![PortRange::single(3389).unwrap()],
            ..resource(name)
        });
        let catalogue = Catalogue {
            revision,
            resources: std::iter::once(resource("billing-db")).chain(others).chain(desktops).collect(),
            zones: vec![Zone { suffix: suffix.parse().unwrap(), exclusive: false }],
            proxies: vec![ProxyAddress {
                name: "main".parse().unwrap(),
                host: "127.0.0.1".into(),
                port: local.unwrap_or(443),
            }],
            outside: vec![CLUSTER.parse().unwrap()],
        };
        reply(StatusCode::OK, &json!(catalogue))
    }

    pub(super) async fn access(&self, request: &AccessRequest) -> Response<Full<Bytes>> {
        self.story.lock().unwrap().programs.push(request.program.clone());
        while self.story.lock().unwrap().undecided.contains(&request.port) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let target = ExecTarget { resource: request.resource.clone(), port: request.port };
        let answer = match request.port {
            _ if self.story.lock().unwrap().remembered.contains(&target) => {
                AccessAnswer::Granted(grant(&["hwk", "user"]))
            }
            80 => AccessAnswer::Granted(grant(&[])),
            403 => AccessAnswer::Refused { reason: RefusalReason::Policy, message: "not for you".into() },
            _ => AccessAnswer::TapNeeded { code_allowed: self.story.lock().unwrap().code.is_some() },
        };
        reply(StatusCode::OK, &json!(answer))
    }
}

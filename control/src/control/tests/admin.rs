//! The administrator's socket.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::super::*;
use super::scene::Scene;
use crate::admin_server::SOCKET;

async fn command(scene: &Scene, line: &[u8]) -> Value {
    let mut stream = UnixStream::connect(scene.dir.path().join(SOCKET)).await.unwrap();
    stream.write_all(line).await.unwrap();
    stream.write_all(b"\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    serde_json::from_str(&answer).unwrap()
}

async fn ask(scene: &Scene, request: Value) -> Value {
    command(scene, request.to_string().as_bytes()).await
}

#[tokio::test]
async fn commands_are_answered_a_line_each_and_audited_by_who_gave_them() {
    let scene = Scene::new().await;
    let cancel = CancellationToken::new();
    let server = crate::admin_server::AdminServer::bind(scene.control.clone()).unwrap();
    let serving = tokio::spawn(server.serve(cancel.clone()));
    let path = scene.dir.path().join(SOCKET);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let text = "kind: app\nmetadata: {name: new}\nspec: {uri: 'tcp://10.0.0.20:80'}";
    let applied = ask(&scene, json!({"command": "apply", "files": [{"name": "a.yaml", "text": text}]})).await;
    assert_eq!((&applied["answer"], &applied["lines"][0]), (&json!("done"), &json!("app/new created")));
    let read = ask(&scene, json!({"command": "get", "kind": "app", "name": "new"})).await;
    assert_eq!(read["documents"][0]["spec"]["uri"], "tcp://10.0.0.20:80");
    let listed = ask(&scene, json!({"command": "get", "kind": "app", "name": null})).await;
    assert_eq!(listed["documents"].as_array().unwrap().len(), 4);
    let user = ask(&scene, json!({"command": "add_user", "name": "jerry", "roles": ["tap"]})).await;
    assert_eq!((user["answer"].as_str(), user["token"].as_str().unwrap().len()), (Some("token"), 32));
    let twice = ask(&scene, json!({"command": "add_user", "name": "jerry", "roles": []})).await;
    assert_eq!(twice["answer"], "failed");
    let locked =
        ask(&scene, json!({"command": "lock", "target": {"user": "jerry"}, "ttl": 60, "message": "why"}))
            .await;
    assert_eq!(locked["lines"][0], "lock/user-jerry created");
    let deleted = ask(&scene, json!({"command": "delete", "kind": "app", "name": "new"})).await;
    assert_eq!(deleted["answer"], "done");
    assert_eq!(ask(&scene, json!({"command": "sessions"})).await["sessions"], json!([]));
    assert_eq!(ask(&scene, json!({"command": "kill_session", "id": "0a"})).await["answer"], "failed");
    for bad in [&b"nonsense"[..], b"", b"{}", br#"{"command":"get","kind":"printer"}"#] {
        assert_eq!(command(&scene, bad).await["answer"], "failed");
    }
    let lock = scene.audit("lock").remove(0);
    assert!(lock["actor"].as_str().is_some_and(|actor| !actor.is_empty()));
    assert_eq!(scene.audit("resource.delete").len(), 1);
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
    assert!(!path.exists(), "the socket is gone");
}

#[tokio::test]
async fn a_socket_that_a_killed_process_left_is_replaced() {
    let scene = Scene::new().await;
    let path = scene.dir.path().join(SOCKET);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(crate::admin_server::AdminServer::bind(scene.control.clone()).is_ok());
}

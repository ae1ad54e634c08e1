//! The example does what the README says of it.

use std::path::PathBuf;

use tokio::process::Command;

use crate::{binary::Process, support::Client};

/// Builds the example, into the folder that the tests were built into.
async fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build
        .args([
            "build",
            "--quiet",
            "--example",
            "custom_route",
            "--target-dir",
        ])
        .arg(folder.parent().unwrap());
    assert!(build.status().await.unwrap().success());
    folder.join("examples").join("custom_route")
}

#[tokio::test]
async fn the_example_serves_its_own_route_beside_the_signaling() {
    let mut process = Process::start(&example().await, &[], &[("PORT", "0")]);
    let line = process.line_with("listening on ").await;
    let address = line.strip_prefix("listening on ").unwrap().parse().unwrap();
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/new-endpoint").await.text(), "hello");
    let reply = client.get("/sign_in?peer_name=alice").await;
    assert_eq!(reply.text(), "alice,1,1\n");
    assert_eq!(client.get("/sign_out?peer_id=1").await.status, 200);
    process.line_with("alice signed in as 1").await;
    process.line_with("alice left: signed_out").await;
}

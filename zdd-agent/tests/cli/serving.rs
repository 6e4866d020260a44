//! The server itself: streams, standard services, its end.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use zdd_agent::api::client::{Client, ClientError};
use zdd_agent::api::server::GRACE;

use crate::answers::{Asked, agreeing, status};
use crate::rig::{Agent, within, zdd};

async fn channel(agent: &Agent) -> Channel {
    let path = agent.socket.clone();
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://test").connect_with_connector(connect).await.unwrap()
}

#[tokio::test]
async fn the_standard_health_service_answers() {
    let agent = Agent::start(agreeing(Asked::default()));
    let mut health = HealthClient::new(channel(&agent).await);
    for service in ["", "zdd.v1.Control"] {
        let answer =
            health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn reflection_lists_our_service_and_gives_its_descriptors() {
    let agent = Agent::start(agreeing(Asked::default()));
    let mut reflection = ServerReflectionClient::new(channel(&agent).await);
    let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let questions = vec![
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("zdd.v1.Control.Shift".to_owned())),
    ];
    let mut answers =
        reflection.server_reflection_info(futures::stream::iter(questions)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.next().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"zdd.v1.Control") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    let answer = answers.next().await.unwrap().unwrap().message_response;
    assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
}

#[tokio::test]
async fn a_watch_goes_on_until_the_server_ends_and_does_not_hold_it() {
    let mut took = Vec::new();
    for _ in 0..3 {
        let agent = Agent::start(agreeing(Asked::default()));
        let mut client = Client::connect(&agent.socket).await.unwrap();
        let mut reports = client.watch_status(Duration::from_millis(10)).await.unwrap();
        for _ in 0..3 {
            assert_eq!(within(reports.next()).await.unwrap().unwrap(), status());
        }
        let socket = agent.socket.clone();
        let asked = Instant::now();
        agent.stop().await;
        took.push(asked.elapsed());
        while let Some(Ok(_)) = reports.next().await {}
        assert!(matches!(Client::connect(&socket).await, Err(ClientError::Unreachable { .. })));
        assert!(!socket.exists(), "the socket was left behind");
    }
    // A stream that holds the server does so each time, a busy machine now and then.
    assert!(
        took.iter().min() < Some(&GRACE),
        "the open streams held the server until they were cut off: {took:?}"
    );
}

#[tokio::test]
async fn status_watch_prints_one_json_object_a_line_until_its_reader_goes() {
    let agent = Agent::start(agreeing(Asked::default()));
    let mut child = zdd(&agent.socket)
        .args(["status", "--watch", "--interval", "10ms", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = within(lines.next_line()).await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<zdd_agent::report::Status>(&line).unwrap(), status());
    }
    drop(lines);
    let output = within(child.wait_with_output()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_waiting_drain_ends_with_the_agent_as_a_failure() {
    let agent = Agent::start(agreeing(Asked::default()));
    let child = zdd(&agent.socket)
        .args(["drain", "10.9.0.1:80", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first report is out when a second client has seen its own.
    let mut client = Client::connect(&agent.socket).await.unwrap();
    let mut reports = client.wait_drained(&"10.9.0.1:80".parse().unwrap()).await.unwrap();
    assert_eq!(within(reports.next()).await.unwrap().unwrap().left, 3);
    drop(reports);
    agent.stop().await;
    let output = within(child.wait_with_output()).await.unwrap();
    let code = output.status.code();
    assert!(code == Some(1) || code == Some(4), "{code:?} {}", String::from_utf8_lossy(&output.stderr));
}

//! gRPC, UDP, DNS and programs, each against the real thing.

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord};
use tokio::net::{TcpListener, UdpSocket};
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::testing::{Dir, LONG, attempt, question, why};
use super::*;
use crate::health::spec::{DnsCheck, GrpcCheck, UdpCheck};

/// A server of gRPC with a health service; it ends when the sender goes.
async fn grpc_server() -> (SocketAddr, HealthReporter, tokio::sync::oneshot::Sender<()>) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop", ServingStatus::Serving).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder().add_service(health);
    let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(async move {
        tokio::select! {
            done = serving => drop(done),
            _ = stopped => {}
        }
    });
    (address, reporter, stop)
}

fn grpc(service: &str, watch: bool) -> Probe {
    Probe::Grpc(GrpcCheck { service: service.into(), watch, ..GrpcCheck::default() })
}

#[tokio::test]
async fn a_grpc_check_asks_for_the_service() {
    let (address, reporter, _stop) = grpc_server().await;
    assert_eq!(attempt(address, grpc("shop", false), LONG).await, Ok(()));
    assert_eq!(attempt(address, grpc("", false), LONG).await, Ok(()), "the server as a whole");
    let said = why(address, grpc("cart", false)).await;
    assert_eq!(said, "the server's health service does not know this service");
    reporter.set_service_status("shop", ServingStatus::NotServing).await;
    assert_eq!(why(address, grpc("shop", false)).await, "NOT_SERVING, expected SERVING");
}

#[tokio::test]
async fn a_grpc_watch_hears_a_change_when_it_happens_and_a_server_that_goes() {
    let (address, reporter, stop) = grpc_server().await;
    let asked = question(address, grpc("shop", true), LONG);
    let mut session = Session::default();
    assert_eq!(super::probe(&asked, &mut session).await.0, Ok(()));
    // The same stream, nothing new.
    assert_eq!(super::probe(&asked, &mut session).await.0, Ok(()));
    let silent = tokio::time::timeout(Duration::from_millis(50), NetworkProber.news(&mut session)).await;
    assert!(silent.is_err(), "there is no news");

    reporter.set_service_status("shop", ServingStatus::NotServing).await;
    let long = Duration::from_millis(LONG);
    tokio::time::timeout(long, NetworkProber.news(&mut session)).await.expect("the change is heard");
    let (answer, _) = super::probe(&asked, &mut session).await;
    assert_eq!(answer.unwrap_err().to_string(), "NOT_SERVING, expected SERVING");
    reporter.set_service_status("shop", ServingStatus::Serving).await;
    tokio::time::timeout(long, NetworkProber.news(&mut session)).await.expect("and the next one");
    assert_eq!(super::probe(&asked, &mut session).await.0, Ok(()));

    // Its connections go with the server only when their tasks end, so the listener's end is what the next attempt meets.
    drop(stop);
    drop(reporter);
    session = Session::default();
    let gone = async {
        while super::probe(&asked, &mut session).await.0 != Err(ProbeFailure::Refused) {
            session = Session::default();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(long, gone).await.expect("a server that has gone is refused");
}

async fn udp_server(answer: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut request = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut request).await {
            if &request[..length] == b"\x00ping" {
                let _ = socket.send_to(answer, from).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn a_datagram_is_answered_as_expected_or_not() {
    let address = udp_server(b"pong \xff 7").await;
    let check = |answer: &[u8], matches: Option<&str>| {
        Probe::Udp(UdpCheck {
            send: b"\x00ping".to_vec(),
            answer: answer.to_vec(),
            matches: matches.map(str::to_owned),
        })
    };
    assert_eq!(attempt(address, check(b"", None), LONG).await, Ok(()));
    assert_eq!(attempt(address, check(b"pong \xff", Some("[0-9]$")), LONG).await, Ok(()));
    assert!(why(address, check(b"gong", None)).await.contains("expected \"gong\" first"));
    assert!(why(address, check(b"", Some("^[0-9]"))).await.contains("does not match \"^[0-9]\""));
    let other = Probe::Udp(UdpCheck { send: b"hello".to_vec(), ..UdpCheck::default() });
    assert_eq!(attempt(address, other, 100).await, Err(ProbeFailure::TimedOut(Duration::from_millis(100))));
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(why(closed, check(b"", None)).await, "port unreachable");
}

/// A name server that knows one name; before each answer it sends one to another question.
async fn dns_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let query = Packet::parse(&bytes[..length]).unwrap();
            let (id, question) = (query.id(), query.questions[0].clone());
            let mut reply = query.into_reply();
            reply.set_flags(PacketFlag::RESPONSE);
            if reply.questions.is_empty() {
                reply.questions.push(question.clone());
            }
            if question.qname.to_string() == "shop.example" {
                let a = RData::A(A { address: 0xc000_0201 });
                reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 60, a));
            } else {
                *reply.rcode_mut() = RCODE::NameError;
            }
            let mut stray = Packet::new_reply(id ^ 1);
            stray.questions.push(question);
            let _ = socket.send_to(&stray.build_bytes_vec().unwrap(), from).await;
            let _ = socket.send_to(&reply.build_bytes_vec().unwrap(), from).await;
        }
    });
    address
}

#[tokio::test]
async fn a_name_is_resolved_as_expected_or_not() {
    let address = dns_server().await;
    let check = |name: &str, rcode, answer: Option<&str>| {
        let answer = answer.map(str::to_owned);
        Probe::Dns(DnsCheck { name: name.into(), kind: "A".into(), rcode, answer })
    };
    assert_eq!(attempt(address, check("shop.example", 0, None), LONG).await, Ok(()));
    assert_eq!(attempt(address, check("shop.example", 0, Some("192.0.2.1")), LONG).await, Ok(()));
    assert_eq!(attempt(address, check("none.example", 3, None), LONG).await, Ok(()));
    let said = why(address, check("none.example", 0, None)).await;
    assert_eq!(said, "NXDOMAIN, expected NOERROR");
    let said = why(address, check("shop.example", 0, Some("192.0.2.9"))).await;
    assert_eq!(said, "the answer has 192.0.2.1, expected 192.0.2.9");
    let garbage = udp_server(b"pong").await;
    assert!(attempt(garbage, check("shop.example", 0, None), 100).await.is_err());
    assert!(Name::new("shop.example").is_ok() && askable("shop.example") && !askable("shöp.example"));
}

fn exec(script: &str) -> Probe {
    Probe::Exec { argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec() }
}

#[tokio::test]
async fn a_program_says_how_a_backend_is_and_knows_which() {
    let address = "192.0.2.7:8080".parse().unwrap();
    let knows = "[ $ZDD_SERVICE/$ZDD_VERSION $ZDD_BACKEND = 'web/v1 192.0.2.7:8080' ]";
    let knows =
        knows.replace("$ZDD_SERVICE/$ZDD_VERSION $ZDD_BACKEND", "\"$ZDD_SERVICE/$ZDD_VERSION $ZDD_BACKEND\"");
    assert_eq!(attempt(address, exec(&knows), LONG).await, Ok(()));
    let parts = "[ \"$ZDD_ADDRESS $ZDD_PORT\" = '192.0.2.7 8080' ]";
    assert_eq!(attempt(address, exec(parts), LONG).await, Ok(()));
    assert_eq!(why(address, exec("echo the till is empty; exit 3")).await, "exit 3 the till is empty");
    let none = Probe::Exec { argv: vec!["/nonexistent/check".into()] };
    assert!(why(address, none).await.starts_with("cannot run /nonexistent/check: "));
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let dir = Dir::new();
    let pids = dir.0.join("pids");
    let script = format!("sleep 1000 & echo $! $$ > {0}.new; mv {0}.new {0}; wait", pids.display());
    let address = "192.0.2.7:8080".parse().unwrap();
    let hung = tokio::spawn(async move { attempt(address, exec(&script), 3_000).await });
    let answer = hung.await.unwrap();
    assert_eq!(answer, Err(ProbeFailure::TimedOut(Duration::from_millis(3_000))));
    let started = std::fs::read_to_string(&pids).expect("the script came as far as this");
    for pid in started.split_whitespace() {
        let gone = async {
            // A killed child stays a zombie until whoever inherits it looks.
            let lives = |stat: String| !stat.contains(") Z ");
            while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(lives) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_millis(LONG), gone).await.expect("nothing of it is left");
    }
}

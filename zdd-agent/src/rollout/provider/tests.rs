//! Real sockets on loopback and real programs.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::rollout::spec::{Comparison, Condition, HookKind, Operand};

fn about() -> About {
    let text = str::to_owned;
    About {
        rollout: "7".to_owned(),
        backends: Vec::new(),
        service: text("web"),
        stable: text("v1"),
        candidate: text("v2"),
        weight: text("10%"),
        phase: text("running"),
        what: text("test"),
        traceparent: Some(text("00-ab-cd-01")),
    }
}

fn at_most(number: f64) -> Condition {
    Condition { op: Comparison::AtMost, with: Operand::Number(number) }
}

/// Serves one answer to one caller; gives the address, and then what was asked.
async fn once(status: &'static str, body: String) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let got = stream.read(&mut asked).await.unwrap();
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&asked[..got]).into_owned()
    });
    (address, served)
}

async fn web(body: &str, path: &str, success: Condition) -> String {
    let (address, _served) = once("200 OK", body.to_owned()).await;
    let timeout = Duration::from_secs(5);
    let provider =
        Provider::Web { url: format!("{address}/stats?v=2"), json: path.to_owned(), success, timeout };
    measure(&provider, &about()).await.told()
}

#[tokio::test]
async fn a_value_in_a_document_is_judged_and_what_is_no_value_is_no_success() {
    assert_eq!(web(r#"{"errors": 0.01}"#, "$.errors", at_most(0.01)).await, "success: 0.01");
    assert_eq!(web(r#"{"errors": 0.02}"#, "$.errors", at_most(0.01)).await, "failure: 0.02");
    assert_eq!(
        web(r#"{"errors": "NaN"}"#, "$.errors", at_most(1.0)).await,
        "inconclusive: NaN: there is no data"
    );
    assert_eq!(web(r#"{"errors": null}"#, "$.errors", at_most(1.0)).await, "inconclusive: the value is null");
    assert_eq!(
        web("{}", "$.errors", at_most(1.0)).await,
        "inconclusive: $.errors names nothing in the answer"
    );
    assert_eq!(web("[1, 2]", "$[*]", at_most(1.0)).await, "error: $[*] names 2 values, one is needed");
    assert!(web("<html>", "$", at_most(1.0)).await.starts_with("error: the answer is not JSON"));
    let ok = Condition { op: Comparison::Equal, with: Operand::Text("ok".to_owned()) };
    assert_eq!(web(r#"{"db": "ok"}"#, "$.db", ok.clone()).await, "success: \"ok\"");
    assert_eq!(web(r#"{"db": "down"}"#, "$.db", ok.clone()).await, "failure: \"down\"");
    assert!(web(r#"{"db": [1]}"#, "$.db", ok).await.starts_with("inconclusive"));
}

#[tokio::test]
async fn names_stand_in_an_address_and_in_a_path_of_a_document() {
    let (address, served) = once("200 OK", r#"{"v2 b": {"errors": 0}}"#.to_owned()).await;
    let provider = Provider::Web {
        url: format!("{address}/{{{{service}}}}/stats?version={{{{candidate}}}}&than={{{{stable}}}}"),
        json: "$['{{candidate}}'].errors".to_owned(),
        success: at_most(0.0),
        timeout: Duration::from_secs(5),
    };
    let about = About { candidate: "v2 b".to_owned(), ..about() };
    assert_eq!(measure(&provider, &about).await.told(), "success: 0");
    let asked = served.await.unwrap();
    assert!(asked.starts_with("GET /web/stats?version=v2%20b&than=v1 HTTP/1.1\r\n"), "{asked}");
}

#[tokio::test]
async fn a_query_gives_one_number_or_says_why_not() {
    let answers = [
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"0.5"]}]}}"#,
            "success: \"0.5\"",
        ),
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"2"]}]}}"#,
            "failure: \"2\"",
        ),
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"NaN"]}]}}"#,
            "inconclusive: NaN: there is no data",
        ),
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"+Inf"]}]}}"#,
            "inconclusive: inf: there is no data",
        ),
        (r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#, "success: \"1\""),
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
            "inconclusive: the query gives nothing",
        ),
        (
            r#"{"status":"success","data":{"resultType":"vector","result":[{},{}]}}"#,
            "error: the query gives 2 values, one is needed: aggregate",
        ),
        (r#"{"status":"error","error":"bad"}"#, "error: the query failed: bad"),
    ];
    for (body, told) in answers {
        let (address, served) = once("200 OK", body.to_owned()).await;
        let query = "rate(errors{version=\"{{candidate}}\"}[1m])".to_owned();
        let timeout = Duration::from_secs(5);
        let provider = Provider::Prometheus { address, query, success: at_most(1.0), timeout };
        assert_eq!(measure(&provider, &about()).await.told(), told);
        let asked = served.await.unwrap();
        let line = "GET /api/v1/query?query=rate%28errors%7Bversion%3D%22v2%22%7D%5B1m%5D%29 HTTP/1.1\r\n";
        assert!(asked.starts_with(line), "{asked}");
    }
}

#[tokio::test]
async fn nobody_there_and_a_bad_status_are_errors() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let timeout = Duration::from_secs(5);
    let provider = Provider::Web { url, json: "$".to_owned(), success: at_most(1.0), timeout };
    assert!(measure(&provider, &about()).await.told().starts_with("error: cannot connect to 127.0.0.1"));
    let (url, _served) = once("503 Service Unavailable", "1".to_owned()).await;
    let provider = Provider::Web { url, json: "$".to_owned(), success: at_most(1.0), timeout };
    assert!(measure(&provider, &about()).await.told().contains("status 503"));
}

#[tokio::test]
async fn an_answer_without_end_is_an_error_and_no_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let endless = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut sent = 0;
        while stream.write_all(&[b'1'; 65536]).await.is_ok() {
            sent += 65536;
        }
        sent
    });
    let timeout = Duration::from_secs(30);
    let provider = Provider::Web { url, json: "$".to_owned(), success: at_most(1.0), timeout };
    let said = measure(&provider, &about()).await.told();
    assert!(said.starts_with("error: the answer cannot be read"), "{said}");
    let sent = tokio::time::timeout(timeout, endless).await.unwrap().unwrap();
    assert!(sent < 32 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let timeout = Duration::from_millis(50);
    let provider = Provider::Web { url, json: "$".to_owned(), success: at_most(1.0), timeout };
    assert_eq!(measure(&provider, &about()).await.told(), "error: no answer within 50ms");
}

fn exec(script: &str, timeout: Duration) -> Provider {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Provider::Exec { argv, timeout }
}

#[tokio::test]
async fn a_program_says_by_its_exit_code() {
    let long = Duration::from_secs(60);
    for (script, told) in [
        ("echo $ZDD_CANDIDATE at $ZDD_WEIGHT", "success: v2 at 10%"),
        ("echo bad; echo worse; exit 1", "failure: exit 1 bad"),
        ("exit 2", "inconclusive: "),
        ("kill -9 $$", "error: /bin/sh was killed"),
    ] {
        assert_eq!(measure(&exec(script, long), &about()).await.told(), told);
    }
    // Far more than a pipe holds, before and after what is shown.
    let chatty = "echo fine; head -c 300000 /dev/zero | tr '\\0' x; exit 0";
    assert_eq!(measure(&exec(chatty, long), &about()).await.told(), "success: fine");
    let missing = Provider::Exec { argv: vec!["/nowhere".to_owned()], timeout: long };
    assert!(measure(&missing, &about()).await.told().starts_with("error: cannot run /nowhere"));
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let mark = std::env::temp_dir().join(format!("zdd-exec-{}", std::process::id()));
    let script = format!("(echo $BASHPID; echo $$; sleep 3600) > {} & sleep 3600", mark.display());
    let began = Instant::now();
    // Time to write its marks, also on a busy machine.
    let outcome = measure(&exec(&script, Duration::from_secs(3)), &about()).await.told();
    assert_eq!(outcome, "error: no answer within 3s");
    assert!(began.elapsed() < Duration::from_secs(3600), "it was not waited for");
    let written = std::fs::read_to_string(&mark).unwrap();
    std::fs::remove_file(&mark).unwrap();
    let leader: i32 = written.lines().last().unwrap().parse().unwrap();
    // The group is empty once the killed ones are reaped by whoever is their parent now.
    let gone = async {
        // SAFETY: signal 0 asks only whether the group has members.
        while unsafe { libc::kill(-leader, 0) } == 0 && alive(leader) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}

/// Whether a process of the group is more than a zombie.
fn alive(group: i32) -> bool {
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(stat).any(|text| {
        let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        fields.get(2).is_some_and(|g| *g == group.to_string()) && fields[0] != "Z"
    })
}

#[tokio::test]
async fn a_hook_is_told_what_it_is_about() {
    let hook = |call| HookSpec {
        on: HookKind::PreRollout,
        call,
        timeout: Duration::from_secs(10),
        retries: 0,
        interval: Duration::from_secs(1),
    };
    let (url, served) = once("204 No Content", String::new()).await;
    call(&hook(HookCall::Webhook { url }), &about()).await.unwrap();
    let asked = served.await.unwrap();
    assert!(asked.starts_with("POST / HTTP/1.1") && asked.contains("\"candidate\":\"v2\""), "{asked}");
    let argv = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    call(&hook(HookCall::Exec { argv: argv("grep -q '\"service\":\"web\"'") }), &about()).await.unwrap();
    let why = call(&hook(HookCall::Exec { argv: argv("echo no; exit 7") }), &about()).await.unwrap_err();
    assert_eq!(why, "exit 7 no");
}

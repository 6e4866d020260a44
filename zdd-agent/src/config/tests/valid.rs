//! What is valid, and what it means.

use std::time::Duration;

use super::*;
use crate::desired::*;

#[test]
fn what_is_not_said_has_its_documented_default() {
    let (desired, warnings) = valid(BASE);
    insta::assert_debug_snapshot!(desired.agent, @r#"
    AgentSpec {
        interfaces: [
            "eth0",
        ],
        mode: Native,
        pin_dir: "/sys/fs/bpf/zdd",
        state_dir: "/var/lib/zdd",
        key_file: None,
        socket: "/run/zdd/zdd.sock",
        metrics: Some(
            127.0.0.1:9177,
        ),
        page: None,
        otlp: None,
        log_json: false,
        seccomp: true,
        limits: Limits {
            services: 256,
            backends: 4096,
            cells: 2097152,
            flows: 262144,
            syn_filter: 2097152,
            direct: 65536,
            signals: 32768,
            snat: 65536,
        },
        syn_memory: 64s,
        encap: EncapSources {
            v4: 10.255.0.0/16,
            v6: fd7a:6464::/64,
        },
        snat: SnatSpec {
            sources: [],
            first: 61000,
            last: 65535,
        },
        probe_budget: ProbeBudget {
            concurrent: 256,
            per_second: 0,
        },
        alerts: [],
        api: ApiSpec {
            socket_group: None,
            remote: None,
            rules: [],
        },
    }
    "#);
    insta::assert_debug_snapshot!(desired.services, @r#"
    [
        ServiceSpec {
            name: "web",
            vips: [
                Vip {
                    addr: 10.0.0.10,
                    port: 80,
                    more: 0,
                    protocol: Tcp,
                },
            ],
            preview: [],
            preview_version: None,
            affinity: Client,
            forward: Nat,
            idle_timeout: 350s,
            udp_idle_timeout: 60s,
            udp: Stick,
            drain_timeout: None,
            slow_start: 0ns,
            access: AccessSpec {
                allow: [],
                deny: [],
            },
            new_per_source: None,
            capacity: None,
            cells: 16384,
            health: None,
            signals: None,
            rollout: None,
            cohorts: [],
            versions: [
                VersionSpec {
                    name: "v1",
                    weight: 10000,
                    forward: None,
                    backends: [
                        BackendSpec {
                            address: 10.1.0.1:8080,
                            weight: 1,
                        },
                    ],
                },
                VersionSpec {
                    name: "v2",
                    weight: 0,
                    forward: None,
                    backends: [
                        BackendSpec {
                            address: 10.2.0.1:8080,
                            weight: 1,
                        },
                    ],
                },
            ],
        },
    ]
    "#);
    insta::assert_snapshot!(warnings.join("\n"), @"zdd.toml:3:1: service `web` has no health check: every backend counts as healthy");
}

#[test]
fn everything_can_be_said() {
    let text = r#"
        [agent]
        interfaces = ["eth0", "veth*"]
        mode = "generic"
        pin_dir = "/sys/fs/bpf/other"
        state_dir = "/srv/zdd"
        key_file = "/etc/zdd/key"
        socket = "/run/other.sock"
        metrics = "off"
        page = "[::1]:9178"
        page_actions = true
        seccomp = "off"
        otlp = "http://127.0.0.1:4318"
        log = "json"
        syn_memory = "2s"
        [agent.limits]
        services = 2
        backends = 10
        cells = 0x8000
        flows = 1024
        syn_filter = 65536
        direct = 128
        [[service]]
        name = "web-6"
        vip = "[2001:db8::1]:443/tcp"
        affinity = "client-version"
        forward = "l2"
        idle_timeout = "5m"
        udp_idle_timeout = "30s"
        drain_timeout = "1h 30m"
        cells = 4096
        [service.health]
        http = "/health?deep=1"
        status = [200, 204]
        host = "example.org"
        interval = "2s"
        timeout = "3s"
        rise = 1
        fall = 5
        jitter = 0.5
        port = 8081
        [[service.version]]
        name = "2026.11-rc.1"
        weight = "87.5%"
        forward = "nat"
        backends = [{ address = "[2001:db8::2]:8080", weight = 7 }]
        [[service.version]]
        name = "v2"
        weight = 12.5
        backends = []
    "#;
    let (desired, warnings) = valid(text);
    insta::assert_debug_snapshot!(desired, @r#"
    Desired {
        agent: AgentSpec {
            interfaces: [
                "eth0",
                "veth*",
            ],
            mode: Generic,
            pin_dir: "/sys/fs/bpf/other",
            state_dir: "/srv/zdd",
            key_file: Some(
                "/etc/zdd/key",
            ),
            socket: "/run/other.sock",
            metrics: None,
            page: Some(
                PageSpec {
                    address: [::1]:9178,
                    actions: true,
                },
            ),
            otlp: Some(
                "http://127.0.0.1:4318",
            ),
            log_json: true,
            seccomp: false,
            limits: Limits {
                services: 2,
                backends: 10,
                cells: 32768,
                flows: 1024,
                syn_filter: 65536,
                direct: 128,
                signals: 32768,
                snat: 65536,
            },
            syn_memory: 2s,
            encap: EncapSources {
                v4: 10.255.0.0/16,
                v6: fd7a:6464::/64,
            },
            snat: SnatSpec {
                sources: [],
                first: 61000,
                last: 65535,
            },
            probe_budget: ProbeBudget {
                concurrent: 256,
                per_second: 0,
            },
            alerts: [],
            api: ApiSpec {
                socket_group: None,
                remote: None,
                rules: [],
            },
        },
        services: [
            ServiceSpec {
                name: "web-6",
                vips: [
                    Vip {
                        addr: 2001:db8::1,
                        port: 443,
                        more: 0,
                        protocol: Tcp,
                    },
                ],
                preview: [],
                preview_version: None,
                affinity: ClientVersion,
                forward: L2,
                idle_timeout: 300s,
                udp_idle_timeout: 30s,
                udp: Stick,
                drain_timeout: Some(
                    5400s,
                ),
                slow_start: 0ns,
                access: AccessSpec {
                    allow: [],
                    deny: [],
                },
                new_per_source: None,
                capacity: None,
                cells: 4096,
                health: Some(
                    HealthSpec {
                        probe: Http(
                            HttpCheck {
                                path: "/health?deep=1",
                                status: [
                                    200,
                                    204,
                                ],
                                host: Some(
                                    "example.org",
                                ),
                                headers: [],
                                contains: None,
                                matches: None,
                                json: [],
                                tls: None,
                            },
                        ),
                        interval: 2s,
                        fast_interval: None,
                        timeout: 3s,
                        rise: 1,
                        fall: 5,
                        jitter: 0.5,
                        port: Some(
                            8081,
                        ),
                        depends: [],
                        panic_threshold: None,
                    },
                ),
                signals: None,
                rollout: None,
                cohorts: [],
                versions: [
                    VersionSpec {
                        name: "2026.11-rc.1",
                        weight: 8750,
                        forward: Some(
                            Nat,
                        ),
                        backends: [
                            BackendSpec {
                                address: [2001:db8::2]:8080,
                                weight: 7,
                            },
                        ],
                    },
                    VersionSpec {
                        name: "v2",
                        weight: 1250,
                        forward: None,
                        backends: [],
                    },
                ],
            },
        ],
        nodes: [],
    }
    "#);
    insta::assert_snapshot!(warnings.join("\n"), @"
    zdd.toml:12:19: `seccomp` is off: whoever takes over the agent, a probe or a hook may make every system call
    zdd.toml:15:22: `syn_memory` is shorter than a handshake may take (64s): a late retransmission during a shift may break it
    zdd.toml:29:28: `udp_idle_timeout` counts for udp only: this service carries tcp
    zdd.toml:32:9: the health check's timeout (3s) is longer than its interval (2s): a hanging backend is noticed late
    zdd.toml:47:9: version `v2` of service `web-6` has no backends: its share goes to the stable version
    ");
}

#[test]
fn a_missing_weight_is_0_unless_none_is_given() {
    let weights =
        |text: &str| valid(text).0.services[0].versions.iter().map(|v| v.weight).collect::<Vec<_>>();
    assert_eq!(weights(BASE), [FULL, 0]);
    assert_eq!(weights(&BASE.replace("\"v2\"", "\"v2\"\nweight = 100")), [0, FULL]);
    let both =
        BASE.replace("\"v1\"", "\"v1\"\nweight = 0.01").replace("\"v2\"", "\"v2\"\nweight = \"99.99%\"");
    assert_eq!(weights(&both), [1, 9_999]);
}

#[test]
fn a_tcp_check_is_a_check() {
    let (desired, warnings) =
        valid(&BASE.replace("forward = \"nat\"", "forward = \"nat\"\nhealth = { tcp = true }"));
    let health = desired.services[0].health.clone().unwrap();
    assert_eq!(health.probe, Probe::Tcp);
    assert_eq!((health.interval, health.timeout), (Duration::from_secs(1), Duration::from_millis(500)));
    assert_eq!((health.rise, health.fall, health.jitter, health.port), (2, 3, 0.2, None));
    assert_eq!(warnings, [] as [String; 0]);
}

#[test]
fn one_backend_may_serve_two_protocols_and_two_l2_services() {
    valid(&(BASE.to_owned() + &SECOND.replace("10.1.0.53:53", "10.1.0.1:8080")));
    let l2 = BASE.replace("nat", "l2").replace(":8080", ":80");
    let other = SECOND.replace("nat", "l2").replace(":53/udp", ":80/tcp").replace("10.0.0.10", "10.0.0.11");
    valid(&(l2 + &other.replace("10.1.0.53:53", "10.1.0.1:80")));
}

#[test]
fn the_api_over_tcp_wants_certificates_on_both_sides() {
    let text = r#"
        [agent]
        interfaces = ["eth0"]
        [agent.api]
        socket_group = "zdd"
        listen = "10.0.0.1:9443"
        cert = "/etc/zdd/api.crt"
        key = "/etc/zdd/api.key"
        client_ca = "/etc/zdd/clients.crt"
        [[agent.api.role]]
        role = "operator"
        users = "ci"
        certificates = ["dns:ci.example.com", "uri:spiffe://example.com/ci"]
    "#;
    let (desired, _) = valid(text);
    let api = desired.agent.api;
    assert_eq!(api.socket_group.as_deref(), Some("zdd"));
    assert_eq!(api.remote.unwrap().listen, "10.0.0.1:9443".parse().unwrap());
    let rule = RoleRule {
        access: Access::Operator,
        users: vec!["ci".to_owned()],
        groups: vec![],
        certificates: vec!["dns:ci.example.com".to_owned(), "uri:spiffe://example.com/ci".to_owned()],
    };
    assert_eq!(api.rules, [rule]);
}

#[test]
fn nodes_are_named_by_the_addresses_of_their_backends() {
    let text = r#"
        [agent]
        interfaces = ["eth0"]
        [[node]]
        name = "worker-1"
        addresses = ["10.1.1.0/24", "2001:db8:1::/64"]
        [[node]]
        name = "worker-2.example.com"
        addresses = "10.1.2.7/32"
    "#;
    let (desired, _) = valid(text);
    let on = |address: &str| {
        let address = address.parse().unwrap();
        desired
            .nodes
            .iter()
            .filter(|node| node.has(address))
            .map(|node| node.name.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!((on("10.1.1.9"), on("2001:db8:1::9")), (vec!["worker-1"], vec!["worker-1"]));
    assert_eq!((on("10.1.2.7"), on("10.1.2.8")), (vec!["worker-2.example.com"], vec![]));
    let twice = text.replace("worker-2.example.com", "worker-1").replace("10.1.2.7/32", "10.1.1.0/24");
    let errors = Config::parse(&twice, "zdd.toml").unwrap_err().to_string();
    assert!(
        errors.contains("is there twice") && errors.contains("is on node `worker-1` already"),
        "{errors}"
    );
}

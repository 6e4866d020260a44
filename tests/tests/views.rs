//! All views of one agent show the same numbers, and they outlive it. Needs root.

use std::collections::BTreeMap;
use std::num::NonZero;

use serde_json::Value;
use zdd_agent::api::client::Client;
use zdd_tests::browser::Browser;
use zdd_tests::rig::{Error, LB_ADDRESS, Result, VIP, client_address, wait_for};
use zdd_tests::terminal::Top;
use zdd_tests::world::{LOOK_EVERY, PATIENCE, Setup, World, curl, unharmed};

/// One scrape: value by name and labels.
fn scrape(world: &World) -> Result<BTreeMap<String, f64>> {
    let text = curl(world.rig.ns("lb"), None, "http://127.0.0.1:9177/metrics")?;
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        (name.to_owned(), value.parse().expect("a number"))
    });
    Ok(samples.collect())
}

/// What the API says, asked by a client of its own and not by the command line.
fn asked_by_api(world: &World) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let status = runtime.block_on(async {
        let mut client = Client::connect(world.zdd().socket()).await.expect("an agent");
        client.status().await.expect("a status")
    });
    serde_json::to_value(status).expect("JSON")
}

/// Views are compared to the last bit, so reading JSON must not lose one: the quick way to read a float is off by one for some.
#[test]
fn a_number_read_from_json_is_the_one_that_was_written() {
    // The share of the SYN filter's bits that were set when this once made the views differ.
    for number in [984.0 / 8_388_608.0, 0.1, 1.0 / 3.0, f64::MIN_POSITIVE] {
        let text = serde_json::to_string(&number).expect("JSON");
        assert_eq!(
            serde_json::from_str::<f64>(&text).expect("a number").to_bits(),
            number.to_bits(),
            "{text}"
        );
    }
}

/// The numbers of a status under the names that metrics have for them.
fn as_metrics(status: &Value) -> BTreeMap<String, f64> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let mut all = BTreeMap::new();
    for service in list(&status["services"]) {
        let of = format!("service={}", service["name"]);
        for (name, key) in [
            ("zdd_service_packets_total", "packets"),
            ("zdd_service_bytes_total", "bytes"),
            ("zdd_new_flows_total", "new_flows"),
            ("zdd_learned_flows_total", "learned"),
            ("zdd_insert_failures_total", "insert_failed"),
            ("zdd_service_fallback_packets_total", "fallback"),
        ] {
            all.insert(format!("{name}{{{of}}}"), number(&service["counters"][key]));
        }
        for why in ["denied", "limited", "no_backend"] {
            let name = format!("zdd_service_refused_packets_total{{{of},why=\"{why}\"}}");
            all.insert(name, number(&service["counters"][why]));
        }
        all.insert(format!("zdd_dirty_cells{{{of}}}"), number(&service["dirty_cells"]));
        if !service["access"].is_null() {
            for list in ["allow", "deny"] {
                let name = format!("zdd_service_access_prefixes{{{of},list=\"{list}\"}}");
                all.insert(name, number(&service["access"][list]));
            }
        }
        if !service["new_per_source"].is_null() {
            let name = format!("zdd_service_new_per_source_limit{{{of}}}");
            all.insert(name, number(&service["new_per_source"]["rate"]));
        }
        all.insert(format!("zdd_service_generation{{{of}}}"), number(&service["generation"]));
        for version in list(&service["versions"]) {
            let of = format!("{of},version={}", version["name"]);
            for (name, key) in [
                ("zdd_version_share_ratio", "share"),
                ("zdd_version_asked_ratio", "asked"),
                ("zdd_version_new_flows_total", "new_flows"),
                ("zdd_version_flows", "flows"),
            ] {
                all.insert(format!("{name}{{{of}}}"), number(&version[key]));
            }
            for backend in list(&version["backends"]) {
                let of = format!("{of},backend={}", backend["address"]);
                for (name, key) in [
                    ("zdd_backend_packets_total", "packets"),
                    ("zdd_backend_bytes_total", "bytes"),
                    ("zdd_backend_new_flows_total", "new_flows"),
                    ("zdd_backend_flows", "flows"),
                ] {
                    all.insert(format!("{name}{{{of}}}"), number(&backend[key]));
                }
            }
        }
    }
    for (reason, packets) in status["reasons"].as_object().expect("reasons") {
        all.insert(format!("zdd_packets_total{{reason=\"{reason}\"}}"), number(packets));
    }
    let table = &status["flow_table"];
    for (state, key) in [("half_open", "half"), ("established", "established"), ("dead", "dead")] {
        all.insert(format!("zdd_flow_entries{{state=\"{state}\"}}"), number(&table[key]));
    }
    for (class, key) in [("half_open", "half"), ("learned", "learned"), ("promoted", "promoted")] {
        let quota = &table["quotas"][key];
        all.insert(format!("zdd_flow_quota_used{{class=\"{class}\"}}"), number(&quota["used"]));
        all.insert(format!("zdd_flow_quota_limit{{class=\"{class}\"}}"), number(&quota["limit"]));
    }
    for pool in list(&status["snat"]) {
        for (state, key) in [("live", "live"), ("ended", "finished")] {
            all.insert(format!("zdd_snat_ports{{family=\"ipv4\",state=\"{state}\"}}"), number(&pool[key]));
        }
        all.insert("zdd_snat_capacity{family=\"ipv4\"}".to_owned(), number(&pool["capacity"]));
    }
    all.insert("zdd_flow_capacity".to_owned(), number(&table["capacity"]));
    all.insert("zdd_syn_filter_fill_ratio".to_owned(), number(&status["syn_filter"]["fill"]));
    all
}

/// The numbers of a status under the names that the page has for them.
fn as_page(status: &Value) -> BTreeMap<String, Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = BTreeMap::new();
    for service in list(&status["services"]) {
        let name = text(&service["name"]);
        for key in ["generation", "dirty_cells"] {
            all.insert(format!("{name}/{key}"), service[key].clone());
        }
        for part in ["counters", "access", "new_per_source"] {
            for (key, value) in service[part].as_object().into_iter().flatten() {
                // What nothing was turned away for is not shown.
                let rare = ["fallback", "denied", "limited", "no_backend"].contains(&key.as_str());
                if part == "counters" && rare && *value == 0 {
                    continue;
                }
                all.insert(format!("{name}/{part}/{key}"), value.clone());
            }
        }
        for version in list(&service["versions"]) {
            let name = format!("{name}/{}", text(&version["name"]));
            for key in ["asked", "share", "flows", "new_flows"] {
                all.insert(format!("{name}/{key}"), version[key].clone());
            }
            for backend in list(&version["backends"]) {
                let name = format!("{name}/{}", text(&backend["address"]));
                for key in ["health", "flows", "new_flows", "packets"] {
                    all.insert(format!("{name}/{key}"), backend[key].clone());
                }
            }
        }
    }
    let reasons = status["reasons"].as_object().expect("reasons").iter();
    let met = reasons.filter(|(_, packets)| **packets != 0);
    all.extend(met.map(|(reason, packets)| (format!("reasons/{reason}"), packets.clone())));
    for pool in list(&status["snat"]) {
        for key in ["live", "finished", "capacity"] {
            all.insert(format!("snat/{}/{key}", text(&pool["sources"][0])), pool[key].clone());
        }
    }
    for key in ["entries", "established", "half", "dead"] {
        all.insert(format!("flow_table/{key}"), status["flow_table"][key].clone());
    }
    all
}

/// The numbers of a status as `zdd top` writes them. Its rates are differences of these.
fn as_top(status: &Value) -> BTreeMap<String, String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let share = |value: &Value| format!("{:.2}%", value.as_f64().expect("a share") * 100.0);
    let mut all = BTreeMap::new();
    for service in list(&status["services"]) {
        let name = service["name"].as_str().expect("a name").to_owned();
        let flows = |version: &Value| version["flows"].as_u64().expect("a number");
        let live: u64 = list(&service["versions"]).iter().map(flows).sum();
        all.insert(format!("{name}/generation"), service["generation"].to_string());
        all.insert(format!("{name}/live"), live.to_string());
        let settled = match service["dirty_cells"].as_u64() {
            Some(0) => "settled".to_owned(),
            cells => format!("{} cells not settled", cells.expect("a number")),
        };
        all.insert(format!("{name}/settled"), settled);
        for version in list(&service["versions"]) {
            let name = format!("{name}/{}", version["name"].as_str().expect("a name"));
            all.insert(format!("{name}/asked"), share(&version["asked"]));
            all.insert(format!("{name}/share"), share(&version["share"]));
            all.insert(format!("{name}/live"), flows(&version).to_string());
            let backends = list(&version["backends"]);
            let ill = backends.iter().filter(|backend| backend["health"] == "unhealthy").count();
            all.insert(format!("{name}/healthy"), format!("{}/{}", backends.len() - ill, backends.len()));
        }
    }
    let reasons = status["reasons"].as_object().expect("reasons").iter();
    let met = reasons.filter(|(_, packets)| **packets != 0);
    all.extend(met.map(|(reason, packets)| (format!("reasons/{reason}"), packets.to_string())));
    let table = &status["flow_table"];
    let fill = status["syn_filter"]["fill"].as_f64().expect("a share") * 100.0;
    let mut head = format!(
        "flows {} of {} ({} half-open)  syn filter {fill:.1}%",
        table["entries"], table["capacity"], table["half"]
    );
    for pool in list(&status["snat"]) {
        let used = pool["live"].as_u64().zip(pool["finished"].as_u64()).map(|(live, over)| live + over);
        let v6 = if pool["sources"].to_string().contains(':') { "6" } else { "" };
        head.push_str(&format!("  snat{v6} {}/{}", used.expect("numbers"), pool["capacity"]));
    }
    all.insert("head".to_owned(), head);
    all
}

/// What is on the screen of `zdd top`, by the same names.
fn read_top(screen: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut lines = screen.lines().map(str::trim_end);
    all.extend(lines.by_ref().nth(1).map(|head| ("head".to_owned(), head.to_owned())));
    let mut service = String::new();
    for line in lines.by_ref().skip(1).take_while(|line| !line.is_empty()) {
        let words: Vec<&str> = line.trim_start_matches('>').split_whitespace().collect();
        match words[..] {
            [name, "gen", generation, _, _, live, _, ref settled @ ..] => {
                service = name.to_owned();
                all.insert(format!("{service}/generation"), generation.to_owned());
                all.insert(format!("{service}/live"), live.to_owned());
                all.insert(format!("{service}/settled"), settled.join(" "));
            }
            [name, _, asked, share, _, _, _, live, healthy] => {
                for (key, value) in [("asked", asked), ("share", share), ("live", live), ("healthy", healthy)]
                {
                    all.insert(format!("{service}/{name}/{key}"), value.to_owned());
                }
            }
            _ => panic!("`{line}` on\n{screen}"),
        }
    }
    let counted = lines.skip_while(|line| !line.starts_with("PACKETS")).skip(1);
    for line in counted.take_while(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        for [reason, _, total] in words.as_chunks::<3>().0 {
            all.insert(format!("reasons/{reason}"), (*total).to_owned());
        }
    }
    all
}

const NUMBERS: &str = "return Object.fromEntries([...document.querySelectorAll('[data-num]')]\
    .map((e) => [e.dataset.num, e.dataset.value]))";

/// What the page shows, each text read as what it is.
fn drawn(browser: &Browser) -> Result<BTreeMap<String, Value>> {
    let shown = browser.script(NUMBERS)?;
    let shown = shown.as_object().expect("numbers").iter();
    Ok(shown
        .map(|(key, text)| {
            let text = text.as_str().unwrap_or_default();
            (key.clone(), serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)))
        })
        .collect())
}

#[test]
fn status_metrics_page_top_and_api_show_the_same_numbers() -> Result<()> {
    // Without probes, which are packets too and never end.
    let setup = Setup {
        agent_lines: format!("page = \"127.0.0.1:9178\"\nsnat_source = \"{LB_ADDRESS}\""),
        health: None,
        echo_health: None,
        v2_percent: 30,
        ..Setup::default()
    };
    let world = World::running_unchecked(setup)?;
    let load = world.load(10)?;
    world.zdd().run(&["shift", "web", "v2=60%"])?;
    zdd_tests::world::goes_on(&load)?;
    unharmed(&load.finish());
    // Then one of its clients may not dial any more.
    let denied = client_address(95);
    let limits = format!(
        "name = \"web\"\naccess = {{ deny = [\"{denied}/32\", \"10.66.0.0/16\"] }}\n\
         new_per_source = {{ rate = 1000, burst = 2000 }}\n"
    );
    // The share that was shifted stays.
    let text = world.setup.toml(world.rig.scratch().dir()).replacen("name = \"web\"\n", &limits, 1);
    let text = text.replace("weight = 70", "weight = 40").replace("weight = 30", "weight = 60");
    let file = world.write("limits.toml", &text)?.display().to_string();
    world.zdd().run(&["apply", &file])?;
    let turned_away = curl(world.rig.ns("c"), Some(denied), &format!("http://{VIP}/"));
    assert!(turned_away.is_err(), "{turned_away:?}");
    let browser = Browser::start(&world.rig, "lb", false)?;
    browser.open("http://127.0.0.1:9178")?;
    browser.wait("a page", "return document.getElementById('as-of')?.dataset.value")?;

    // Wide and high enough for everything.
    let size = (NonZero::new(60).expect("not 0"), NonZero::new(160).expect("not 0"));
    let mut top = Top::start_as(&world, "xterm-256color", size);
    top.shows("the first screen", &["connected", "web", "echo", "PACKETS"])?;

    let (mut last, mut looks_left) = (None, 3);
    wait_for("a moment at which nothing changes while all are asked", PATIENCE, LOOK_EVERY, || {
        let before = world.status()?;
        let metrics = scrape(&world)?;
        let api = asked_by_api(&world);
        let page: Value =
            serde_json::from_str(&curl(world.rig.ns("lb"), None, "http://127.0.0.1:9178/api/v1/snapshot")?)
                .expect("JSON");
        // The page draws once a second: wait for the next one.
        let seen = &page["unix_ms"];
        browser.wait(
            "a newer drawing",
            &format!("return document.getElementById('as-of').dataset.value > {seen}"),
        )?;
        let drawn = drawn(&browser)?;
        // So does top.
        let screen = top.shown();
        let after = world.status()?;
        // The status is the one of that moment: a neighbour's ARP a moment later is one packet more.
        // What changed in between and back again, as a next hop that is asked for anew, differs once; a view that is wrong, always.
        let agree = api == after && page["status"] == after && read_top(&screen) == as_top(&after);
        looks_left -= u32::from(before == after && !agree);
        let quiet = before == after && (agree || looks_left == 0);
        last = Some((metrics, api, page, drawn, screen, after));
        Ok::<_, Error>(quiet.then_some(()))
    })?;
    let (metrics, api, page, drawn, screen, status) = last.expect("asked");
    assert_eq!(api, status, "the API");
    assert_eq!(page["status"], status, "the page's snapshot");
    let expected = as_metrics(&status);
    for (name, value) in &expected {
        assert_eq!(metrics.get(name), Some(value), "{name} of the metrics");
    }
    assert_eq!(drawn, as_page(&status), "what the page draws");
    assert_eq!(read_top(&screen), as_top(&status), "what top draws:\n{screen}");
    assert_eq!(expected["zdd_service_access_prefixes{service=\"web\",list=\"deny\"}"], 2.0);
    assert_eq!(expected["zdd_service_new_per_source_limit{service=\"web\"}"], 1000.0);
    let denied = expected["zdd_service_refused_packets_total{service=\"web\",why=\"denied\"}"];
    assert_eq!(denied, expected["zdd_packets_total{reason=\"drop_denied\"}"]);
    assert!(
        expected["zdd_packets_total{reason=\"drop_denied\"}"] >= 1.0
            && expected.contains_key("zdd_snat_capacity{family=\"ipv4\"}")
    );
    let shown = world.zdd().run(&["status"])?;
    for words in [
        "access: 0 prefixes allowed, 2 denied; new connections per source: 1000/s, 2000 at once",
        "snat from ",
        "dropped: drop_denied ",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    // They are numbers of something that happened.
    assert!(
        expected["zdd_service_packets_total{service=\"web\"}"] > 500.0 && expected.len() > 80,
        "{expected:#?}"
    );
    assert!(expected["zdd_version_new_flows_total{service=\"web\",version=\"v2\"}"] > 10.0);
    Ok(())
}

#[test]
fn counters_never_fall_when_the_agent_is_killed_or_configured_anew() -> Result<()> {
    let mut world = World::running(Setup { v2_percent: 50, ..Setup::default() })?;
    let load = world.load(10)?;
    let falls = |before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>| -> Vec<String> {
        // The kernel's. What the agent itself has done is counted from its start, as a process's CPU time is.
        let of_agent = |name: &str| name.starts_with("zdd_probes_");
        let totals = before
            .iter()
            .filter(|(name, _)| name.starts_with("zdd_") && name.contains("_total") && !of_agent(name));
        totals
            .filter(|(name, value)| after.get(*name).is_none_or(|now| now < *value))
            .map(|(name, value)| format!("{name}: {value} -> {:?}", after.get(name)))
            .collect()
    };
    zdd_tests::world::goes_on(&load)?;
    let first = scrape(&world)?;
    assert!(first["zdd_service_packets_total{service=\"web\"}"] > 100.0, "{first:?}");
    world.kill_agent();
    zdd_tests::world::goes_on(&load)?;
    world.start_agent()?;
    let second = scrape(&world)?;
    assert_eq!(falls(&first, &second), Vec::<String>::new(), "after a kill");
    // A backend less: what it counted stays in its version's and its service's totals.
    world.setup.v2 = vec![3];
    world.write_config()?;
    world.zdd().run(&["apply", &world.config().display().to_string()])?;
    unharmed(&load.finish());
    world.wait_status("the backend to be gone", |status| {
        let backends = zdd_tests::world::status::version(status, "web", "v2")["backends"].as_array()?;
        (backends.len() == 1).then_some(())
    })?;
    let third = scrape(&world)?;
    let mut fell = falls(&second, &third);
    fell.retain(|line| !line.contains("backend=\"10.81.4.2:"));
    assert_eq!(fell, Vec::<String>::new(), "after a change");
    // Nothing is there that clients can make more of.
    assert!(third.len() < 250, "{} samples", third.len());
    Ok(())
}

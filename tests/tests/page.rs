//! The page in a browser: headless Chromium beside the agent. Needs root, chromium and chromium-driver.
//!
//! With ZDD_PICTURES=DIR the pictures that the tests look at are kept there.

use std::path::PathBuf;

use serde_json::Value;
use zdd_tests::browser::Browser;
use zdd_tests::rig::{Result, VIP, backend_address};
use zdd_tests::world::status::{number, version};
use zdd_tests::world::{Setup, World, curl, unharmed};

const PAGE: &str = "http://127.0.0.1:9178";
const CANARY: &str = "[service.rollout]\nstrategy = \"canary\"\n\
    steps = [{ cohort = \"staff\" }, { weight = 25 }, { pause = \"until-promoted\" }, { weight = 60 }, { pause = \"until-promoted\" }]\n";

fn setup(more: &str) -> Setup {
    Setup {
        agent_lines: format!("page = \"127.0.0.1:9178\"\n{more}"),
        rollout: Some(CANARY.to_owned()),
        preview: true,
        api: "[cohort.staff]\ncidrs = [\"10.80.1.250/32\"]\n".to_owned(),
        idle_ms: 60_000,
        ..Setup::default()
    }
}

/// Where a picture goes.
fn picture(world: &World, name: &str) -> PathBuf {
    match std::env::var_os("ZDD_PICTURES") {
        Some(dir) => PathBuf::from(dir).join(name),
        None => world.rig.scratch().path(name),
    }
}

fn shown(browser: &Browser, key: &str) -> Result<f64> {
    let value = browser
        .wait(key, &format!("return document.querySelector('[data-num=\"{key}\"]')?.dataset.value"))?;
    Ok(value.as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN))
}

/// Nothing stands out of the page to the right, whatever the width.
fn fits(browser: &Browser) -> Result<()> {
    let over = browser
        .script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")?;
    assert_eq!(over, 0, "the page is wider than its window");
    Ok(())
}

/// On a phone, too, how many are healthy is seen before anything is moved aside.
fn health_is_in_sight(browser: &Browser, within: &str) -> Result<()> {
    let cells = format!(
        "[...document.querySelectorAll('{within} td')].filter((cell) => /^\\d+ of \\d+$/.test(cell.textContent.trim()))"
    );
    let hidden = browser.script(&format!(
        "return {cells}.filter((cell) =>\
           cell.getBoundingClientRect().right > cell.closest('.scroll').getBoundingClientRect().right + 1).length"
    ))?;
    assert_eq!(hidden, 0, "{within}");
    let all = browser.script(&format!("return {cells}.length"))?;
    assert!(all.as_u64().is_some_and(|all| all >= 4), "{within}: {all}");
    Ok(())
}

/// And why a backend is ill: each reason, or next hop, that is shown at all.
fn whys_are_in_sight(browser: &Browser) -> Result<()> {
    let shown = "[...document.querySelectorAll('article details[open] .why')].filter((why) => why.getClientRects().length > 0)";
    let hidden = browser.script(&format!(
        "return {shown}.filter((why) =>\
           why.getBoundingClientRect().right > why.closest('.scroll').getBoundingClientRect().right + 1).length"
    ))?;
    assert_eq!(hidden, 0);
    let told = browser.script(&format!("return {shown}.map((why) => why.textContent).join('; ')"))?;
    assert!(told.as_str().is_some_and(|told| told.contains("503")), "{told}");
    Ok(())
}

/// How many lines with at least two places the chart of `web` has.
const LINES: &str = "return [...document.querySelectorAll('[data-service=web] path.seen')]\
    .filter((path) => path.getAttribute('d').includes('L')).length";

#[test]
fn the_page_shows_the_split_health_and_rollout_as_they_happen() -> Result<()> {
    let mut world = World::running(setup(""))?;
    let load = world.load(20)?;
    let browser = Browser::start(&world.rig, "lb", false)?;
    browser.resize(1280, 900)?;
    browser.open(PAGE)?;
    browser.wait("a live page", "return document.getElementById('link').textContent === 'live'")?;
    assert_eq!(shown(&browser, "web/v1/asked")?, 1.0);
    browser.wait(
        "nothing to look at",
        "return document.getElementById('attention-list').textContent === 'Nothing.'",
    )?;

    let value = |key: &str| format!("return document.querySelector('[data-num=\"{key}\"]')?.dataset.value");
    assert_eq!(browser.wait("the preview", &value("web/preview"))?, "v2");
    assert_eq!(browser.script(&value("web/cohorts/staff"))?, "");

    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    browser.wait("the cohort to lead", &format!("{} === 'v2'", value("web/cohorts/staff")))?;
    browser.wait(
        "the first step",
        "return document.querySelector('[data-num=\"web/v2/asked\"]').dataset.value === '0.25'",
    )?;
    browser.wait("the rollout", "return document.querySelector('ol.steps li.now')?.textContent")?;
    let events = browser.wait("its events", "return document.querySelector('ol.log')?.innerText")?;
    assert!(events.as_str().is_some_and(|text| text.contains("25%")), "{events}");
    // Commands in the agent's words are commands here, too.
    browser.wait(
        "the command that goes on",
        "return [...document.querySelectorAll('ol.steps li code')].some((code) => code.textContent === 'zdd rollout promote')",
    )?;
    assert_eq!(browser.script("return document.body.innerText.includes('`')")?, false);
    // Two versions get new flows now, and both are drawn.
    browser.wait("two lines", &format!("{LINES} === 2"))?;
    let label = browser
        .script("return document.querySelector('[data-service=web] svg').getAttribute('aria-label')")?;
    assert!(label.as_str().is_some_and(|text| text.contains("v2: asked 25.00 %")), "{label}");
    // What came to v2 is about what was asked; the page says it in figures.
    browser.wait(
        "about a quarter to come to v2",
        "const came = document.querySelector('[data-key=\"web/v2\"]').cells[4].textContent.replace(' %', '');\
         return came > 5 && came < 50",
    )?;

    world.set_health(&[4], false)?;
    let told =
        browser.wait("the failure", "return document.querySelector('#attention li.bad')?.textContent")?;
    assert!(
        told.as_str().is_some_and(|text| text.contains("10.81.4.2") && text.contains("unhealthy")),
        "{told}"
    );
    browser.script("document.querySelector('[data-service=web] details').open = true")?;
    browser.wait(
        "one of two",
        "return document.querySelector('[data-key=\"web/v2\"]').innerText.includes('1 of 2')",
    )?;
    // Each new snapshot leaves open what the reader opened.
    let before = browser.script("return document.getElementById('as-of').dataset.value")?;
    browser.wait(
        "the next snapshots",
        &format!("return document.getElementById('as-of').dataset.value > {before} + 2000"),
    )?;
    assert_eq!(browser.script("return document.querySelector('[data-service=web] details').open")?, true);
    fits(&browser)?;
    browser.picture(&picture(&world, "page-light.png"))?;
    browser.resize(360, 740)?;
    browser.wait(
        "the narrow page",
        "return document.querySelector('.chart svg').getBoundingClientRect().width < 340",
    )?;
    fits(&browser)?;
    health_is_in_sight(&browser, "article")?;
    whys_are_in_sight(&browser)?;
    browser.picture(&picture(&world, "page-narrow.png"))?;

    // It only shows: there is nothing to press that changes something, and nobody who asks is heard.
    assert_eq!(browser.script("return document.querySelectorAll('button:not(dialog button)').length")?, 0);
    assert!(browser.complaints()?.is_empty(), "{:?}", browser.complaints()?);
    drop(browser);
    let browser = Browser::start(&world.rig, "lb", true)?;
    browser.resize(1280, 900)?;
    browser.open(PAGE)?;
    // A page that is opened later has the history.
    browser.wait("two lines at once", &format!("{LINES} === 2"))?;
    let ground = browser.script("return getComputedStyle(document.body).backgroundColor")?;
    assert_eq!(ground, "rgb(18, 21, 26)", "dark where the reader wants it so");
    browser.picture(&picture(&world, "page-dark.png"))?;
    drop(browser);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn a_page_finds_the_agent_again_after_a_kill() -> Result<()> {
    let mut world = World::running(setup(""))?;
    let load = world.load(5)?;
    let browser = Browser::start(&world.rig, "lb", false)?;
    browser.open(PAGE)?;
    browser.wait("a live page", "return document.getElementById('link').textContent === 'live'")?;
    let pid = browser.wait("its process", "return document.getElementById('pid').dataset.value")?;
    let begun = shown(&browser, "web/counters/new_flows")?;
    world.kill_agent();
    browser.wait(
        "the loss",
        "return document.getElementById('link').textContent.startsWith('no agent since')",
    )?;
    assert!(shown(&browser, "web/counters/new_flows")? >= begun, "what was known stays on the page");
    browser.picture(&picture(&world, "page-lost.png"))?;
    world.start_agent()?;
    browser.wait(
        "the new agent",
        &format!(
            "return document.getElementById('link').textContent === 'live' && \
             document.getElementById('pid').dataset.value !== {pid}"
        ),
    )?;
    assert!(shown(&browser, "web/counters/new_flows")? >= begun, "counters outlive the agent");
    unharmed(&load.finish());
    Ok(())
}

/// Types a value into the open question and answers it.
fn answer(browser: &Browser, fill: &str) -> Result<()> {
    browser.script(&format!("{fill}; document.getElementById('ask-yes').click()")).map(drop)
}

#[test]
fn a_shift_and_an_abort_on_the_page_need_the_token_and_a_confirmation() -> Result<()> {
    let world = World::running(setup("page_actions = true"))?;
    let load = world.load(10)?;
    let share = |status: &Value| number(version(status, "web", "v2"), "asked");
    let browser = Browser::start(&world.rig, "lb", false)?;
    browser.resize(1280, 900)?;
    browser.open(PAGE)?;
    let press = |text: &str| {
        browser.wait(
            text,
            &format!(
                "const button = [...document.querySelectorAll('button:not(dialog button)')]\
                 .find((b) => b.textContent.startsWith('{text}')); button?.click(); return Boolean(button)"
            ),
        )
    };
    let asks = |words: &str| {
        browser.wait(words, &format!("return document.getElementById('ask').innerText.includes('{words}')"))
    };
    press("Unlock")?;
    answer(&browser, &format!("document.getElementById('token').value = '{}'", "0".repeat(32)))?;
    press("Roll back")?;
    asks("Roll back web?")?;
    answer(&browser, "")?;
    asks("the token is wrong")?;
    browser.script("document.getElementById('ask-no').click()")?;

    let token = std::fs::read_to_string(world.rig.scratch().path("state/page-token")).expect("a token");
    press("Unlock")?;
    answer(&browser, &format!("document.getElementById('token').value = '{}'", token.trim()))?;
    press("Shift")?;
    answer(&browser, "document.querySelector('dialog [data-version=v2]').value = '30'")?;
    asks("30.00 %")?;
    asks("flows moves")?;
    browser.picture(&picture(&world, "page-shift.png"))?;
    assert_eq!(share(&world.status()?), 0.0, "not before it is confirmed");
    answer(&browser, "")?;
    browser.wait(
        "the shift",
        "return document.querySelector('[data-num=\"web/v2/asked\"]').dataset.value === '0.3'",
    )?;
    assert_eq!(share(&world.status()?), 0.3);
    press("Roll back")?;
    asks("Roll back web?")?;
    browser.script("document.getElementById('ask-no').click()")?;
    assert_eq!(share(&world.status()?), 0.3, "a cancel does nothing");
    press("Roll back")?;
    answer(&browser, "")?;
    browser.wait(
        "the rollback",
        "return document.querySelector('[data-num=\"web/v2/asked\"]').dataset.value === '0'",
    )?;

    world.zdd().run(&["rollout", "start", "web", "v2"])?;
    press("Abort")?;
    asks("All new flows go back to v1")?;
    answer(&browser, "")?;
    browser.wait(
        "the abort",
        "return document.querySelector('[data-num=\"web/rollout/phase\"]')?.dataset.value === 'rolled-back'",
    )?;
    assert_eq!(share(&world.status()?), 0.0);
    drop(browser);
    unharmed(&load.finish());
    Ok(())
}

#[test]
fn other_names_and_sites_are_not_answered() -> Result<()> {
    let world = World::running_unchecked(setup("page_actions = true"))?;
    let lb = world.rig.ns("lb");
    assert!(curl(lb, None, &format!("{PAGE}/"))?.contains("<title>zdd</title>"));
    let asked = |more: &[&str]| {
        let mut argv = vec!["curl", "--silent", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10"];
        argv.extend(more);
        lb.run(&argv)
    };
    let snapshot = format!("{PAGE}/api/v1/snapshot");
    assert_eq!(asked(&[&snapshot])?, "200");
    assert_eq!(asked(&["-H", "Host: rebound.example:9178", &snapshot])?, "403");
    assert_eq!(asked(&["-H", "Sec-Fetch-Site: cross-site", &snapshot])?, "403");
    let act = format!("{PAGE}/api/v1/actions");
    let body = r#"{"act":"shift","service":"web","weights":[["v2",10000]]}"#;
    assert_eq!(asked(&["-H", "Content-Type: application/json", "-d", body, &act])?, "403");
    assert_eq!(number(version(&world.status()?, "web", "v2"), "asked"), 0.0);
    // Nobody reaches it from elsewhere.
    let away = world.rig.ns("c").run(&["curl", "--silent", "--max-time", "3", "http://10.80.0.1:9178/"]);
    assert!(away.is_err(), "answered: {away:?}");
    Ok(())
}

/// Fifty services more, each with its own split.
fn many(world: &World) -> String {
    let text = world.setup.toml(world.rig.scratch().dir());
    let mut text =
        text.replace("services = 8\n", "services = 128\n").replace("backends = 64\n", "backends = 256\n");
    for n in 0..50 {
        let own = |b: u8| format!("\"{}:{}\"", backend_address(b), 9000 + n);
        text += &format!(
            "[[service]]\nname = \"svc-{n:02}\"\nvip = \"{VIP}:{}/tcp\"\nforward = \"nat\"\ncells = 1024\n\
             [[service.version]]\nname = \"blue\"\nweight = {}\nbackends = [{}]\n\
             [[service.version]]\nname = \"green\"\nweight = {n}\nbackends = [{}]\n",
            10_000 + n,
            100 - n,
            own(1),
            own(3)
        );
    }
    text
}

#[test]
fn of_fifty_services_each_is_found_and_has_the_numbers_that_status_has() -> Result<()> {
    let mut world = World::new(Setup { all_cells: 262_144, ..setup("") })?;
    std::fs::write(world.config(), many(&world)).expect("written");
    world.start_agent()?;
    let browser = Browser::start(&world.rig, "lb", false)?;
    browser.resize(1280, 900)?;
    browser.open(PAGE)?;
    let listed =
        "[...document.querySelectorAll('#index tbody tr')].map((row) => row.dataset.index).join(' ')";
    let open = "[...document.querySelectorAll('article')].map((card) => card.dataset.service).join(' ')";
    browser.wait("all services", &format!("return {listed}.split(' ').length === 52"))?;
    assert_eq!(browser.script(&format!("return {open}"))?, "", "none in full before it is asked for");
    let shown = browser.script(
        "return Object.fromEntries([...document.querySelectorAll('#index [data-num]')]\
         .map((cell) => [cell.dataset.num, Number(cell.dataset.value)]))",
    )?;
    let status = world.status()?;
    let mut compared = 0;
    for service in status["services"].as_array().expect("services") {
        let name = service["name"].as_str().expect("a name");
        for version in service["versions"].as_array().expect("versions").iter().filter(|v| v["asked"] != 0.0)
        {
            let key = format!("index/{name}/{}/asked", version["name"].as_str().expect("a name"));
            assert_eq!(shown[&key].as_f64(), version["asked"].as_f64(), "{key}");
            compared += 1;
        }
    }
    assert_eq!(compared, 2 + 1 + 49 * 2);
    browser.picture(&picture(&world, "page-many.png"))?;

    let find = |text: &str| {
        browser.script(&format!(
            "const field = document.getElementById('filter'); field.focus(); field.value = '{text}';\
             field.dispatchEvent(new Event('input'))"
        ))
    };
    for (text, found) in [
        ("svc-17", "svc-17"),
        ("SVC 33 green", "svc-33"),
        (":9041", "svc-41"),
        ("10.81.4.2", "web echo"),
        ("nothing-like-it", ""),
    ] {
        find(text)?;
        assert_eq!(browser.script(&format!("return {listed}"))?, found, "{text}");
        assert_eq!(browser.script(&format!("return {open}"))?, found, "{text}");
    }
    find("svc-17")?;
    assert_eq!(self::shown(&browser, "svc-17/green/asked")?, 0.17);
    // What is typed, and where, survives the next snapshots.
    let before = browser.script("return document.getElementById('as-of').dataset.value")?;
    browser.wait(
        "the next snapshots",
        &format!("return document.getElementById('as-of').dataset.value > {before} + 2000"),
    )?;
    assert_eq!(
        browser.script("return document.activeElement.id + document.activeElement.value")?,
        "filtersvc-17"
    );
    fits(&browser)?;
    browser.picture(&picture(&world, "page-many-found.png"))?;

    // What changes, or is ill.
    find("")?;
    browser.script("document.getElementById('notable').click()")?;
    browser.wait("nothing of note", &format!("return {listed} === '' && {open} === ''"))?;
    world.zdd().run(&["shift", "svc-05", "green=50%"])?;
    world.servers().set_healthy("b4", false);
    browser.wait("what changes and what is ill", &format!("return {listed} === 'web echo svc-05'"))?;
    let told = browser.script("return document.getElementById('index').innerText")?;
    let told = told.as_str().expect("a text");
    assert!(told.contains("1 unhealthy") && told.contains("not settled") && told.contains("50.00"), "{told}");

    // One is followed to, and away again.
    browser.script("document.getElementById('notable').click()")?;
    let follow = "document.querySelector('[data-index=svc-40] a').click()";
    browser.script(follow)?;
    browser.wait("the one followed to", &format!("return {open} === 'svc-40'"))?;
    browser.resize(360, 740)?;
    browser.wait(
        "the narrow page",
        "return document.querySelector('.chart svg').getBoundingClientRect().width < 340",
    )?;
    fits(&browser)?;
    health_is_in_sight(&browser, "#index")?;
    browser.picture(&picture(&world, "page-many-narrow.png"))?;
    browser.script(follow)?;
    browser.wait("none", &format!("return {open} === ''"))?;
    assert!(browser.complaints()?.is_empty(), "{:?}", browser.complaints()?);
    Ok(())
}

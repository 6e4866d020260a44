//! One question of the DNS over UDP (RFC 1035).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};

use super::{ProbeFailure, udp};
use crate::chance::random;
use crate::health::spec::DnsCheck;

/// Mnemonics of the types whose records can be compared, with what simple-dns calls them.
pub const TYPES: [(&str, TYPE); 9] = [
    ("A", TYPE::A),
    ("AAAA", TYPE::AAAA),
    ("CNAME", TYPE::CNAME),
    ("MX", TYPE::MX),
    ("NS", TYPE::NS),
    ("PTR", TYPE::PTR),
    ("SOA", TYPE::SOA),
    ("SRV", TYPE::SRV),
    ("TXT", TYPE::TXT),
];

/// Mnemonics of response codes by their number (RFC 6895).
pub const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// A response code in letters.
fn code(number: u16) -> String {
    RCODES.get(usize::from(number)).map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// Whether a name can be asked for.
pub fn askable(name: &str) -> bool {
    name.is_ascii() && Name::new(name).is_ok()
}

pub(super) async fn ask(address: SocketAddr, check: &DnsCheck) -> Result<(), ProbeFailure> {
    let wrong = ProbeFailure::Wrong;
    let id = random() as u16;
    let name = Name::new(&check.name).map_err(|error| wrong(format!("{:?}: {error}", check.name)))?;
    let kind = TYPES.iter().find(|(name, _)| *name == check.kind).map_or(TYPE::A, |(_, kind)| *kind);
    let question = Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false);
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    query.questions.push(question.clone());
    let bytes = query.build_bytes_vec().map_err(|error| wrong(format!("cannot ask: {error}")))?;
    let (socket, mut bytes) = udp::exchange(address, &bytes).await?;
    loop {
        let answer =
            Packet::parse(&bytes).map_err(|error| wrong(format!("the answer is not DNS: {error}")))?;
        // Somebody's answer to another question: it may be one of ours that came late, or forged.
        if answer.id() == id && answer.has_flags(PacketFlag::RESPONSE) && same(&answer, &question) {
            return judge(&answer, kind, check);
        }
        drop(answer);
        bytes = udp::receive(&socket).await?;
    }
}

fn same(answer: &Packet<'_>, question: &Question<'_>) -> bool {
    match answer.questions.as_slice() {
        // A server that could not read the question need not repeat it.
        [] => answer.rcode() != RCODE::NoError,
        [one] => {
            one.qname.to_string().eq_ignore_ascii_case(&question.qname.to_string())
                && one.qtype == question.qtype
        }
        _ => false,
    }
}

fn judge(answer: &Packet<'_>, kind: TYPE, check: &DnsCheck) -> Result<(), ProbeFailure> {
    let got = answer.rcode() as u16;
    if got != check.rcode {
        return Err(ProbeFailure::Wrong(format!("{}, expected {}", code(got), code(check.rcode))));
    }
    let Some(wanted) = &check.answer else { return Ok(()) };
    let records: Vec<String> = answer
        .answers
        .iter()
        .filter(|record| record.rdata.type_code() == kind)
        .filter_map(|record| text(&record.rdata))
        .collect();
    if records.iter().any(|record| record.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    let got = if records.is_empty() { "no record".to_owned() } else { records.join(", ") };
    let got: String = got.chars().take(200).collect();
    let cut = if answer.has_flags(PacketFlag::TRUNCATION) { " (the answer was truncated)" } else { "" };
    Err(ProbeFailure::Wrong(format!("the answer has {got}{cut}, expected {wanted}")))
}

/// A record as zone files write it, names without their last dot.
fn text(record: &RData<'_>) -> Option<String> {
    Some(match record {
        RData::A(a) => Ipv4Addr::from(a.address).to_string(),
        RData::AAAA(aaaa) => Ipv6Addr::from(aaaa.address).to_string(),
        RData::CNAME(name) => name.0.to_string(),
        RData::NS(name) => name.0.to_string(),
        RData::PTR(name) => name.0.to_string(),
        RData::MX(mx) => format!("{} {}", mx.preference, mx.exchange),
        RData::SOA(soa) => soa.mname.to_string(),
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target),
        RData::TXT(txt) => String::try_from(txt.clone()).ok()?,
        _ => return None,
    })
}

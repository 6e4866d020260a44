//! Which row of cells steers which clients of a VIP: prefixes and the numbers of rows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::dataplane::SourceSet;
use crate::prefix::Prefix;

/// Clients of a VIP whose row is not the VIP's own, in the one form that a given assignment has: two are equal only if every client
/// has the same row in both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// A prefix whose row is another than that of the prefix around it.
    prefixes: BTreeMap<Prefix, u16>,
    /// The same as addresses, each with the row from there on: what is asked of every entry of the flow table.
    from: Vec<(u128, u16)>,
}

impl Members {
    /// `cohorts`: the rows in the order in which they lead, with their prefixes; those of the other family are left out. A client
    /// in several cohorts belongs to the one that leads first. `own`: the VIP's row.
    pub fn new<'a>(cohorts: impl IntoIterator<Item = (u16, &'a [Prefix])>, v4: bool, own: u16) -> Self {
        let mut marks: BTreeMap<Prefix, (usize, u16)> = BTreeMap::new();
        for (rank, (row, prefixes)) in cohorts.into_iter().enumerate() {
            for prefix in prefixes.iter().filter(|prefix| prefix.addr.is_ipv4() == v4) {
                marks.entry(*prefix).or_insert((rank, row));
            }
        }
        let mut around: Vec<(Prefix, (usize, u16))> = Vec::new();
        let rows = marks.into_iter().map(|(prefix, mark)| {
            while around.pop_if(|(outer, _)| !outer.contains(prefix.addr)).is_some() {}
            let mark = around.last().map_or(mark, |(_, outer)| mark.min(*outer));
            around.push((prefix, mark));
            (prefix, mark.1)
        });
        let rows: Vec<_> = rows.collect();
        Self::canonical(rows, own)
    }

    /// What a set that is in the maps says.
    pub fn of_set(set: &SourceSet, own: u16) -> Self {
        Self::canonical(set.iter().map(|(prefix, source)| (*prefix, source.service)), own)
    }

    /// `rows`: in the order of their prefixes.
    fn canonical(rows: impl IntoIterator<Item = (Prefix, u16)>, own: u16) -> Self {
        let mut members = Self::default();
        let mut around: Vec<(Prefix, u16)> = Vec::new();
        for (prefix, row) in rows {
            while let Some((gone, _)) = around.pop_if(|(outer, _)| !outer.contains(prefix.addr)) {
                members.ends(&gone, around.last().map_or(own, |(_, row)| *row));
            }
            if around.last().map_or(own, |(_, row)| *row) != row {
                members.prefixes.insert(prefix, row);
                members.from.push((first(&prefix), row));
                around.push((prefix, row));
            }
        }
        while let Some((gone, _)) = around.pop() {
            members.ends(&gone, around.last().map_or(own, |(_, row)| *row));
        }
        members
    }

    /// Behind a prefix begins what is around it.
    fn ends(&mut self, prefix: &Prefix, around: u16) {
        if let Some(next) = last(prefix).checked_add(1) {
            self.from.push((next, around));
        }
    }

    /// Whether the VIP has one row for all.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// The prefixes with another row than what is around them.
    pub fn rows(&self) -> impl Iterator<Item = (Prefix, u16)> + '_ {
        self.prefixes.iter().map(|(prefix, row)| (*prefix, *row))
    }

    /// How many prefixes name a row.
    pub fn count(&self, row: u16) -> usize {
        self.prefixes.values().filter(|named| **named == row).count()
    }

    /// The row of a client of the VIP's family; `None`: the VIP's own, as nothing around the client says otherwise.
    pub fn row(&self, client: IpAddr) -> Option<u16> {
        let addr = word(client);
        let after = self.from.partition_point(|(from, _)| *from <= addr);
        self.from.get(after.checked_sub(1)?).map(|(_, row)| *row)
    }
}

fn word(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn first(prefix: &Prefix) -> u128 {
    word(prefix.addr)
}

fn last(prefix: &Prefix) -> u128 {
    let free = u32::from(prefix.width() - prefix.length);
    first(prefix) | u128::MAX.checked_shr(128 - free).unwrap_or(0)
}

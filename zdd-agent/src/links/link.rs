//! One interface, and the difference between two states of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// A hardware address in the order of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it. A new interface gets a new one, also under an old name.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; none for an interface whose addresses do not have six bytes.
    pub mac: Option<Mac>,
    /// Whether its frames begin with an Ethernet header. The loopback's do not count.
    pub ethernet: bool,
    /// Whether it was set up by the administrator.
    pub up: bool,
    /// Whether it sees the other end.
    pub carrier: bool,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// `veth`, `bridge` and the like; none for hardware.
    pub kind: Option<String>,
    /// Of a VLAN device: what it is on, and its VLAN there.
    pub vlan: Option<Vlan>,
}

/// Where a VLAN device's frames really go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Interface below, on which its frames have a tag more.
    pub parent: u32,
    /// Number of the VLAN.
    pub id: u16,
}

/// The interface on which the frames of an interface really leave, and the tags that they have there, as
/// [`zdd_common::frame::Frame::tags`]: more than two are not known to the program, nor is a device that rests on nothing.
pub fn underlying(links: &BTreeMap<u32, Link>, index: u32) -> Option<(&Link, u32)> {
    let (mut link, mut tags) = (links.get(&index)?, 0);
    for _ in 0..2 {
        let Some(vlan) = link.vlan else { break };
        tags = tags << 16 | u32::from(vlan.id);
        link = links.get(&vlan.parent)?;
    }
    link.vlan.is_none().then_some((link, tags))
}

impl Link {
    /// `None` for a message without a name, which describes no interface.
    pub(crate) fn from_message(message: &LinkMessage) -> Option<Link> {
        let header = &message.header;
        let mut link = Link {
            index: header.index,
            name: String::new(),
            mac: None,
            ethernet: header.link_layer_type == LinkLayerType::Ether,
            up: header.flags.contains(LinkFlags::Up),
            carrier: header.flags.contains(LinkFlags::LowerUp),
            mtu: 0,
            kind: None,
            vlan: None,
        };
        let (mut parent, mut id) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => parent = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    id = infos.iter().find_map(|info| match info {
                        LinkInfo::Data(InfoData::Vlan(data)) => data.iter().find_map(|data| match data {
                            InfoVlan::Id(id) => Some(*id),
                            _ => None,
                        }),
                        _ => None,
                    });
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link.vlan = parent.zip(id).map(|(parent, id)| Vlan { parent, id });
        (!link.name.is_empty()).then_some(link)
    }
}

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is there now.
    Appeared(Link),
    /// It is another than before, maybe by name.
    Changed {
        /// As it was.
        before: Link,
        /// As it is.
        after: Link,
    },
    /// It is gone.
    Gone(Link),
}

/// What leads from `before` to `after`; what went comes first, as a name may be taken again. An index in `removed` was
/// taken away in between, so one that is in both has lost all that was attached to it.
pub(crate) fn diff(
    before: &BTreeMap<u32, Link>,
    after: &BTreeMap<u32, Link>,
    removed: &BTreeSet<u32>,
) -> Vec<LinkEvent> {
    let stays =
        |index: &u32| before.contains_key(index) && after.contains_key(index) && !removed.contains(index);
    let gone = before.values().filter(|link| !stays(&link.index)).cloned().map(LinkEvent::Gone);
    let rest = after.values().filter_map(|link| match before.get(&link.index) {
        Some(old) if stays(&link.index) => {
            (old != link).then(|| LinkEvent::Changed { before: old.clone(), after: link.clone() })
        }
        _ => Some(LinkEvent::Appeared(link.clone())),
    });
    gone.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::InfoKind;

    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some(Mac([2, 0, 0, 0, 0, index as u8])),
            ethernet: true,
            up: true,
            carrier: true,
            mtu: 1500,
            kind: None,
            vlan: None,
        }
    }

    fn all(links: &[Link]) -> BTreeMap<u32, Link> {
        links.iter().map(|link| (link.index, link.clone())).collect()
    }

    #[test]
    fn the_difference_names_what_went_before_what_came() {
        let before = all(&[link(1, "lo"), link(2, "eth0"), link(3, "eth1")]);
        let mut renamed = link(3, "uplink");
        renamed.up = false;
        let after = all(&[link(1, "lo"), renamed.clone(), link(4, "eth0")]);
        assert_eq!(
            diff(&before, &after, &BTreeSet::new()),
            [
                LinkEvent::Gone(link(2, "eth0")),
                LinkEvent::Changed { before: link(3, "eth1"), after: renamed },
                LinkEvent::Appeared(link(4, "eth0")),
            ]
        );
        assert_eq!(diff(&after, &after, &BTreeSet::new()), []);
    }

    #[test]
    fn a_link_that_left_and_came_back_unchanged_is_a_new_one() {
        let links = all(&[link(1, "lo"), link(2, "eth0")]);
        assert_eq!(
            diff(&links, &links, &BTreeSet::from([2, 9])),
            [LinkEvent::Gone(link(2, "eth0")), LinkEvent::Appeared(link(2, "eth0"))]
        );
    }

    #[test]
    fn a_vlan_device_is_told_by_its_message() {
        let mut message = LinkMessage::default();
        message.header.index = 9;
        message.attributes = vec![
            LinkAttribute::IfName("eth0.7".into()),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
            ]),
        ];
        let link = Link::from_message(&message).expect("a link");
        assert_eq!(link.vlan, Some(Vlan { parent: 2, id: 7 }));
        // A veth has a link below as well, its peer, and is no VLAN device.
        message.attributes.pop();
        assert_eq!(Link::from_message(&message).expect("a link").vlan, None);
    }

    #[test]
    fn frames_of_a_vlan_device_leave_tagged_by_the_interface_below() {
        let on =
            |index, name: &str, parent, id| Link { vlan: Some(Vlan { parent, id }), ..link(index, name) };
        let links = all(&[
            link(2, "eth0"),
            on(3, "eth0.5", 2, 5),
            on(4, "eth0.5.6", 3, 6),
            on(5, "eth0.5.6.7", 4, 7),
            on(6, "lost", 99, 1),
        ]);
        let found = |index| underlying(&links, index).map(|(link, tags)| (link.index, tags));
        assert_eq!(found(2), Some((2, 0)));
        assert_eq!(found(3), Some((2, 5)));
        assert_eq!(found(4), Some((2, 5 | 6 << 16)), "the outer tag in the lower half");
        assert_eq!(found(5), None);
        assert_eq!(found(6), None);
        assert_eq!(found(7), None);
    }

    #[test]
    fn a_mac_is_shown_as_everybody_writes_it() {
        assert_eq!(Mac([0x02, 0, 0xab, 1, 0xff, 9]).to_string(), "02:00:ab:01:ff:09");
    }
}

//! `preview` and `preview_version` of a service, looked at beside its VIPs and versions.

use super::problems::Sink;
use super::service::{ServiceRead, VersionRead};
use crate::desired::{Forward, SnatSpec, Vip};

/// Tells of preview VIPs that could not do what the service's VIPs do.
pub(super) fn check(service: &ServiceRead, snat: &SnatSpec, sink: &mut Sink<'_>) {
    if let Some(at) = &service.preview_version {
        let named = |version: &VersionRead| version.name.as_ref().is_some_and(|name| name.value == at.value);
        if service.preview.is_empty() {
            let help = "write preview = \"10.0.0.11:80/tcp\", or remove it";
            let message = "`preview_version` means nothing without `preview`".to_owned();
            sink.error(Some(at.span.clone()), message, help);
        } else if !service.versions.iter().any(named) {
            let message = format!("service `{}` has no version `{}` to preview", service.label(), at.value);
            sink.error(Some(at.span.clone()), message, "name one of its [[service.version]]");
        }
    }
    for (number, preview) in service.preview.iter().enumerate() {
        let (span, at) = (Some(preview.span.clone()), preview.value);
        let before = &service.preview[..number];
        let twin = service.vips.iter().map(|vip| vip.value).find(|vip| vip.family() == at.family());
        let Some(twin) = twin else {
            if !service.vips.is_empty() {
                let message = format!("the preview VIP {at} is {}, the service has no such VIP", at.family());
                sink.error(span, message, "write one of the same address family as `vip`");
            }
            continue;
        };
        if before.iter().any(|other| other.value.family() == at.family()) {
            let message = format!("service `{}` has two {} preview VIPs", service.label(), at.family());
            sink.error(span, message, "one of each address family is enough: all lead to the same version");
        } else if at.protocol != twin.protocol {
            let message = format!("the preview VIP {at} and the VIP {twin} are of two protocols");
            sink.error(span, message, "write the same protocol: it leads to the same servers");
        } else if at.more != twin.more {
            let message = format!("the preview VIP {at} has not as many ports as the VIP {twin}");
            sink.error(span, message, "write as many: it leads to the same servers");
        } else {
            reaches(service, &at, snat, &span, sink);
        }
    }
}

/// Whether all backends of its family can serve it; one complaint is enough.
fn reaches(
    service: &ServiceRead,
    preview: &Vip,
    snat: &SnatSpec,
    span: &Option<super::reader::Span>,
    sink: &mut Sink<'_>,
) {
    for version in &service.versions {
        let Some(forward) = service.forward_of(version) else { continue };
        if forward == Forward::Nat && !mapped(preview, snat, span, sink) {
            return;
        }
        for backend in &version.backends {
            let own = service.vips.len() == 1 || preview.serves(&backend.value.address);
            if own && let Err((message, help)) = forward.can_reach(preview, backend.value.address) {
                return sink.error(span.clone(), format!("preview: {message}"), help);
            }
        }
    }
}

/// Under `nat` a reply tells one VIP only, that of the service; so flows of a preview VIP are mapped as under `snat`.
fn mapped(preview: &Vip, snat: &SnatSpec, span: &Option<super::reader::Span>, sink: &mut Sink<'_>) -> bool {
    if preview.more != 0 {
        let message = format!("the preview VIP {preview} has many ports, and is under nat");
        let help = "its flows are mapped as under snat, which knows one port of a backend: preview a service of one port";
        sink.error(span.clone(), message, help);
        return false;
    }
    if !snat.serves(preview.addr.is_ipv4()) {
        let key = if preview.addr.is_ipv4() { "snat_source" } else { "snat_source6" };
        let message = format!("the preview VIP {preview} is under nat, and agent.{key} is not set");
        let help = format!(
            "set agent.{key} to an address of this host: a nat backend's replies tell the service's VIP only, so those who dial the \
             preview VIP reach it from there, as under snat"
        );
        sink.error(span.clone(), message, help);
        return false;
    }
    true
}

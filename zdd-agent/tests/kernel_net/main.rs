//! Next hops and interfaces against the real kernel, in network namespaces of their own. Needs root.

mod links;
mod namespace;
mod neighbour;

//! The connections that are open: how many each peer has, and which one makes room for a new one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::client_address::ClientAddress;

/// How many connections are taken beyond the limit when all others have a request under way. Each is there for one short
/// answer, so this many are enough for a supervisor to get its own.
const SPARE: usize = 64;

/// How many times as many connections as one peer a whole /48 of IPv6 may have. Providers give one subscriber up to a /48,
/// which is 65,536 peers.
const SITE_SHARE: usize = 2;

/// The requests of a connection.
#[derive(Clone)]
pub(crate) struct Requests(Arc<watch::Sender<Count>>);

#[derive(Clone, Copy)]
struct Count {
    under_way: usize,
    ever: usize,
    /// When a request last began or ended.
    changed: Instant,
}

/// A request that is under way.
pub(crate) struct UnderWay(Requests);

impl Requests {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Count {
            under_way: 0,
            ever: 0,
            changed: Instant::now(),
        })))
    }

    pub(crate) fn begin(&self) -> UnderWay {
        self.0.send_modify(|count| {
            count.under_way += 1;
            count.ever += 1;
            count.changed = Instant::now();
        });
        UnderWay(self.clone())
    }

    /// Until the connection has shown for too long that it is of no use, and in what way.
    pub(crate) async fn useless(&self, first_within: Duration, idle_max: Duration) -> &'static str {
        if timeout(first_within, self.first()).await.is_err() {
            return "silent";
        }
        self.ended_for(idle_max).await;
        "idle"
    }

    async fn first(&self) {
        let mut seen = self.0.subscribe();
        let _ = seen.wait_for(|count| count.ever > 0).await;
    }

    /// Until no request has been under way for so long.
    pub(crate) async fn ended_for(&self, long: Duration) {
        let mut seen = self.0.subscribe();
        loop {
            let idle = seen.wait_for(|count| count.under_way == 0).await;
            let Ok(ever) = idle.map(|count| count.ever) else {
                return;
            };
            let begun = seen.wait_for(|count| count.ever != ever);
            if timeout(long, begun).await.is_err() {
                return;
            }
        }
    }

    /// Since when no request has been under way; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        let count = self.0.borrow();
        (count.under_way == 0).then_some(count.changed)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| {
            count.under_way -= 1;
            count.changed = Instant::now();
        });
    }
}

/// The connections that are open.
#[derive(Clone)]
pub(crate) struct Connections {
    most: usize,
    per_peer: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// How many connections there are that are neither spare nor about to leave.
    staying: usize,
    connections: HashMap<u64, Entry>,
    /// Holds no more peers than there are connections.
    peers: HashMap<ClientAddress, usize>,
    sites: HashMap<ClientAddress, usize>,
}

struct Entry {
    peer: ClientAddress,
    requests: Requests,
    leave: Arc<Notify>,
    /// It was asked to leave, and no longer counts.
    is_leaving: bool,
    is_spare: bool,
}

/// A connection's place among those that are open, until it is dropped.
pub(crate) struct Place {
    connections: Connections,
    id: u64,
    pub(crate) requests: Requests,
    /// Told when the connection has to make room.
    pub(crate) leave: Arc<Notify>,
    /// All other connections are busy: this one is for one short answer.
    pub(crate) is_spare: bool,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The peer has too many.
    Peer,
    /// There are too many in all, and none can be spared.
    Full,
}

impl NoPlace {
    /// The label in the metrics.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Full => "full",
        }
    }
}

impl Connections {
    pub(crate) fn new(most: usize, per_peer: usize) -> Self {
        Self {
            most,
            per_peer,
            open: Arc::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection. When all are taken, one without a request under way makes room.
    pub(crate) fn enter(&self, address: SocketAddr) -> Result<Place, NoPlace> {
        let peer = ClientAddress::new(address.ip());
        let mut open = self.open();
        // Where one peer may have all of them, as a proxy in front must, new ones only make room.
        if self.per_peer < self.most && open.has_too_many(peer, self.per_peer) {
            return Err(NoPlace::Peer);
        }
        if open.connections.len() >= self.most.saturating_add(SPARE) {
            // Those that were asked to leave are on their way out.
            open.shed(|entry| entry.is_spare);
            return Err(NoPlace::Full);
        }
        let is_full = open.staying >= self.most;
        let is_spare = is_full && !open.shed(|entry| !entry.is_spare);
        Ok(self.admit(&mut open, peer, is_spare))
    }

    fn admit(&self, open: &mut Open, peer: ClientAddress, is_spare: bool) -> Place {
        let (id, requests, leave) = (open.next, Requests::new(), Arc::new(Notify::new()));
        open.next += 1;
        open.staying += usize::from(!is_spare);
        *open.peers.entry(peer).or_default() += 1;
        if let Some(site) = peer.site() {
            *open.sites.entry(site).or_default() += 1;
        }
        let entry = Entry {
            peer,
            requests: requests.clone(),
            leave: Arc::clone(&leave),
            is_leaving: false,
            is_spare,
        };
        open.connections.insert(id, entry);
        Place {
            connections: self.clone(),
            id,
            requests,
            leave,
            is_spare,
        }
    }
}

impl Open {
    fn has_too_many(&self, peer: ClientAddress, per_peer: usize) -> bool {
        let site = peer.site().and_then(|site| self.sites.get(&site));
        self.peers.get(&peer).is_some_and(|has| *has >= per_peer)
            || site.is_some_and(|has| *has >= per_peer.saturating_mul(SITE_SHARE))
    }

    /// Asks one idle connection to leave: of the peer that has the most, the one that has been idle for longest. So a peer
    /// that takes all places makes room by its own, and no other peer's are closed.
    fn shed(&mut self, may: impl Fn(&Entry) -> bool) -> bool {
        let idle = self.connections.values_mut().filter_map(|entry| {
            let since = entry.requests.idle_since()?;
            (!entry.is_leaving && may(entry)).then_some((since, entry))
        });
        let has = |entry: &Entry| self.peers.get(&entry.peer).copied().unwrap_or_default();
        let found = idle.max_by_key(|(since, entry)| (has(entry), std::cmp::Reverse(*since)));
        let Some((_, entry)) = found else {
            return false;
        };
        entry.is_leaving = true;
        self.staying -= usize::from(!entry.is_spare);
        entry.leave.notify_one();
        true
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.connections.remove(&id) else {
            return;
        };
        self.staying -= usize::from(!entry.is_spare && !entry.is_leaving);
        decrease(&mut self.peers, entry.peer);
        if let Some(site) = entry.peer.site() {
            decrease(&mut self.sites, site);
        }
    }
}

fn decrease(counts: &mut HashMap<ClientAddress, usize>, peer: ClientAddress) {
    if let Some(count) = counts.get_mut(&peer) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&peer);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 7)
    }

    fn has_to_leave(connections: &Connections, place: &Place) -> bool {
        connections.open().connections[&place.id].is_leaving
    }

    #[test]
    fn a_peer_has_no_more_places_than_it_may_and_leaves_nothing_behind() {
        let connections = Connections::new(100, 2);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(at);
        let first = connections.enter(one).unwrap();
        let second = connections.enter(one).unwrap();
        assert_eq!(connections.enter(one).err(), Some(NoPlace::Peer));
        assert!(connections.enter(other).is_ok());
        drop(first);
        assert!(connections.enter(one).is_ok());
        drop(second);
        let open = connections.open();
        assert!(open.peers.is_empty() && open.connections.is_empty());
        assert_eq!(open.staying, 0);
    }

    /// One subscriber with a /48 had 65,536 times what one peer may have.
    #[test]
    fn a_site_of_ipv6_has_no_more_than_twice_what_one_peer_may_have() {
        let connections = Connections::new(1000, 3);
        let enter = |text: String| connections.enter(at(&text));
        let networks = (0..20).map(|network| format!("2001:db8:1:{network:x}::1"));
        let held: Vec<_> = networks.filter_map(|text| enter(text).ok()).collect();
        assert_eq!(held.len(), 6);
        assert!(enter("2001:db8:2::1".to_owned()).is_ok());
        drop(held);
        assert!(connections.open().sites.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_of_the_greediest_peer_makes_room() {
        let connections = Connections::new(4, 100);
        let [greedy, honest] = ["192.0.2.1", "192.0.2.2"].map(at);
        let honest = connections.enter(honest).unwrap();
        let mut held = Vec::new();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(1)).await;
            held.push(connections.enter(greedy).unwrap());
        }
        // The first of the three has done something since.
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(held[0].requests.begin());
        let next = connections.enter(at("192.0.2.3")).unwrap();
        assert!(!next.is_spare);
        let leaving: Vec<_> = held
            .iter()
            .map(|place| has_to_leave(&connections, place))
            .collect();
        assert_eq!(leaving, [false, true, false]);
        assert!(!has_to_leave(&connections, &honest));
    }

    #[test]
    fn a_peer_that_may_have_every_connection_makes_room_by_its_own() {
        let connections = Connections::new(2, 2);
        let proxy = at("192.0.2.1");
        let first = connections.enter(proxy).unwrap();
        let _second = connections.enter(proxy).unwrap();
        assert!(!connections.enter(proxy).unwrap().is_spare);
        assert!(has_to_leave(&connections, &first));
    }

    #[test]
    fn where_all_are_busy_there_are_spare_places_and_they_make_room_for_each_other() {
        let connections = Connections::new(2, usize::MAX);
        let busy: Vec<_> = (0..2)
            .map(|_| connections.enter(at("192.0.2.1")).unwrap())
            .collect();
        let _requests: Vec<_> = busy.iter().map(|place| place.requests.begin()).collect();
        let mut spare = Vec::new();
        for _ in 0..SPARE {
            spare.push(connections.enter(at("192.0.2.2")).unwrap());
        }
        assert!(spare.iter().all(|place| place.is_spare));
        assert_eq!(
            connections.enter(at("192.0.2.3")).err(),
            Some(NoPlace::Full)
        );
        // One of them was asked to leave, so that the next finds a place.
        let leaving = spare
            .iter()
            .position(|place| has_to_leave(&connections, place));
        drop(spare.swap_remove(leaving.unwrap()));
        assert!(connections.enter(at("192.0.2.3")).unwrap().is_spare);
    }
}

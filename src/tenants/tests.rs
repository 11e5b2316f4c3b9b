//! Who is let in, over a store in memory and over one that two processes have open.

use sluicegate_compat::native::{KeyRequest, TenantPatch, TenantRequest};

use super::*;
use crate::lifecycle::Lifecycle;
use crate::store::Location;

async fn tenants() -> Tenants {
    let store = Store::open(&Location::Memory, &Lifecycle::new()).await.unwrap();
    Tenants::open(store).await.unwrap()
}

fn tenant(id: &str) -> TenantRequest {
    TenantRequest { id: id.to_owned(), ..TenantRequest::default() }
}

fn key_of(tenant_id: &str, scopes: &[Scope]) -> KeyRequest {
    KeyRequest { tenant_id: tenant_id.to_owned(), scopes: scopes.to_vec(), ..KeyRequest::default() }
}

#[tokio::test]
async fn everybody_is_let_in_until_there_is_a_key_and_never_again_after() {
    let tenants = tenants().await;
    let anybody = tenants.identify(Some("whatever it is")).unwrap();
    assert_eq!((anybody.tenant.as_str(), anybody.key.as_ref(), anybody.may(Scope::Admin)), ("default", None, true));
    let (view, secret) =
        tenants.create_admin_key(KeyRequest { name: Some("first".into()), ..KeyRequest::default() }).await.unwrap();
    assert_eq!((view.tenant_id.as_str(), view.scopes.as_slice()), ("default", &Scope::ALL[..]));
    assert_eq!(tenants.identify(None), Err(Denied::Missing));
    assert_eq!(tenants.identify(Some("sk-sg-1")), Err(Denied::Malformed));
    assert_eq!(tenants.identify(Some(Secret::new().unwrap().reveal())), Err(Denied::Unknown));
    assert_eq!(tenants.identify(Some(secret.reveal())).unwrap().key.as_ref(), Some(secret.id()));
    tenants.revoke_key(&view.id, None).await.unwrap();
    assert_eq!(tenants.identify(Some(secret.reveal())), Err(Denied::Unknown));
    assert_eq!(tenants.identify(None), Err(Denied::Missing), "that nobody has a key any more opens nothing");
    assert!(matches!(tenants.revoke_key(&view.id, None).await, Err(ChangeError::NoSuchKey(_))));
}

#[tokio::test]
async fn a_key_says_whose_a_request_is_and_what_it_may() {
    let tenants = tenants().await;
    let heavy = TenantRequest { weight: Some(7), name: Some("Acme".into()), ..tenant("acme") };
    tenants.create_tenant(&heavy).await.unwrap();
    assert!(matches!(tenants.create_tenant(&heavy).await, Err(ChangeError::Exists(_))));
    let nobody = tenants.create_key(&key_of("nobody", &[Scope::Infer])).await;
    assert!(matches!(nobody, Err(ChangeError::NoSuchTenant(_))));
    let (_, secret) = tenants.create_key(&key_of("acme", &[Scope::Infer, Scope::Infer, Scope::Read])).await.unwrap();
    let identity = tenants.identify(Some(secret.reveal())).unwrap();
    assert_eq!((identity.tenant.as_str(), identity.weight.get()), ("acme", 7));
    let may: Vec<_> = Scope::ALL.into_iter().filter(|scope| identity.may(*scope)).collect();
    assert_eq!(may, [Scope::Infer, Scope::Read]);

    tenants.change_tenant("acme", None, TenantPatch { suspended: Some(true), ..TenantPatch::default() }).await.unwrap();
    assert_eq!(tenants.identify(Some(secret.reveal())), Err(Denied::Suspended));
    tenants
        .change_tenant("acme", None, TenantPatch { suspended: Some(false), ..TenantPatch::default() })
        .await
        .unwrap();
    assert!(tenants.identify(Some(secret.reveal())).is_ok());
    tenants.delete_tenant("acme", None).await.unwrap();
    assert_eq!(tenants.identify(Some(secret.reveal())), Err(Denied::Unknown));
    let again = tenants.create_tenant(&tenant("acme")).await;
    assert!(matches!(again, Err(ChangeError::Exists(_))), "what belonged to it is nobody else's");
}

#[tokio::test]
async fn a_key_ends_when_it_was_said_to() {
    let tenants = tenants().await;
    tenants.create_tenant(&tenant("a")).await.unwrap();
    for (expires_ms, expected) in [(1, Err(Denied::Expired)), (u64::MAX, Ok(()))] {
        let request = KeyRequest { expires_ms: Some(expires_ms), ..key_of("a", &[Scope::Infer]) };
        let (_, secret) = tenants.create_key(&request).await.unwrap();
        assert_eq!(tenants.identify(Some(secret.reveal())).map(drop), expected);
    }
}

#[tokio::test]
async fn what_one_process_changes_another_one_sees_and_a_later_one_finds() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::in_folder(folder.path());
    let lifecycle = Lifecycle::new();
    let gateway = Tenants::open(Store::open(&location, &lifecycle).await.unwrap()).await.unwrap();
    let beside = Store::open_beside(&location, &lifecycle).await.unwrap();
    let command = Tenants::open(beside.clone()).await.unwrap();
    let (view, secret) = command.create_admin_key(KeyRequest::default()).await.unwrap();
    assert!(gateway.is_open());
    gateway.refresh().await.unwrap();
    assert!(gateway.identify(Some(secret.reveal())).is_ok() && gateway.identify(None).is_err());
    gateway.file_use();
    // Both have changed it by what they knew.
    command.change_tenant("default", None, TenantPatch { weight: Some(3), ..TenantPatch::default() }).await.unwrap();
    gateway
        .change_tenant("default", None, TenantPatch { suspended: Some(true), ..TenantPatch::default() })
        .await
        .unwrap();
    command.refresh().await.unwrap();
    let both = command.tenant("default").unwrap();
    assert_eq!((both.weight, both.suspended), (3, true));
    beside.close().await;
    gateway.store.close().await;

    let later = Tenants::open(Store::open(&location, &Lifecycle::new()).await.unwrap()).await.unwrap();
    assert_eq!(later.identify(Some(secret.reveal())), Err(Denied::Suspended));
    assert!(later.key(&view.id).unwrap().last_used_ms.is_some(), "when it was used is filed");
}

#[tokio::test]
async fn a_change_of_what_has_changed_meanwhile_is_none() {
    let tenants = tenants().await;
    tenants.create_tenant(&tenant("a")).await.unwrap();
    let row = tenants.read(|book| book.tenants[&TenantId::from("a")].row.clone());
    tenants
        .change_tenant("a", Some(row.version), TenantPatch { weight: Some(2), ..TenantPatch::default() })
        .await
        .unwrap();
    for late in [row.version, 0, -1] {
        let late =
            tenants.change_tenant("a", Some(late), TenantPatch { weight: Some(9), ..TenantPatch::default() }).await;
        assert!(matches!(late, Err(ChangeError::Meanwhile)));
    }
    let late = tenants.change(crate::store::TenantChange::Tenant(crate::store::TenantRow { weight: 9, ..row })).await;
    assert!(matches!(late, Err(ChangeError::Meanwhile)));
    assert_eq!(tenants.tenant("a").unwrap().weight, 2);
}

#[tokio::test]
async fn changes_at_once_are_all_made_and_one_key_is_rotated_once() {
    let tenants = tenants().await;
    tenants.create_tenant(&tenant("a")).await.unwrap();
    let all = (0..6).map(|_| tenants.alter_tenant("a", None, |row| row.weight += 1));
    futures_util::future::try_join_all(all).await.unwrap();
    assert_eq!(tenants.tenant("a").unwrap().weight, 7);
    let (view, secret) = tenants.create_key(&key_of("a", &[Scope::Infer])).await.unwrap();
    let version = tenants.versioned_key(&view.id).unwrap().version;
    let rotations = (0..4).map(|_| tenants.rotate_key(&view.id, Some(version), 0));
    let rotated: Vec<_> = futures_util::future::join_all(rotations).await.into_iter().filter_map(Result::ok).collect();
    assert_eq!((rotated.len(), tenants.keys(Some("a")).len()), (1, 1));
    assert_eq!(tenants.identify(Some(secret.reveal())), Err(Denied::Unknown));
    // A key of a tenant that goes at the same moment is none, whichever is first.
    let request = key_of("a", &[Scope::Infer]);
    let (made, gone) = (tenants.create_key(&request), async { tenants.delete_tenant("a", None).await });
    let (made, gone) = futures_util::future::join(made, gone).await;
    gone.unwrap();
    drop(made);
    assert!(tenants.keys(Some("a")).is_empty());
}

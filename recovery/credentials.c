/*
 * Credentials are each thread's own; they go last of all that needs a privilege, as setting them gives
 * privileges up.
 */
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/syscall.h>

#include "recovery/batch.h"

#define SECURE_KEEP (SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS)

static bool same_ids(const Snap__Credentials *c, const struct proc_status *now)
{
	if (memcmp(c->uid, now->uid, sizeof(now->uid)) != 0 ||
	    memcmp(c->gid, now->gid, sizeof(now->gid)) != 0 || c->n_groups != now->n_groups)
		return false;
	return c->n_groups == 0 ||
	       memcmp(c->groups, now->groups, c->n_groups * sizeof(*c->groups)) == 0;
}

static int queue_ids(struct batch *b, const Snap__Credentials *c, struct err *err)
{
	size_t len = c->n_groups * sizeof(*c->groups);

	if (batch_room(b, 6, len, err) < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_prctl, ARGS(PR_SET_SECUREBITS, SECURE_KEEP),
		       "keeping capabilities") < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_setgroups,
		       ARGS(c->n_groups, len ? batch_push(b, c->groups, len) : 0), "groups") < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_setresgid, ARGS(c->gid[0], c->gid[1], c->gid[2]),
		       "group id %u", c->gid[1]) < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_setfsgid, ARGS(c->gid[3]), "file group id") < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_setresuid, ARGS(c->uid[0], c->uid[1], c->uid[2]),
		       "user id %u", c->uid[1]) < 0)
		return -1;
	return batch_call(b, BATCH_MUST, err, SYS_setfsuid, ARGS(c->uid[3]), "file user id");
}

static int queue_bounding(struct batch *b, uint64_t drop, struct err *err)
{
	for (uint64_t cap = 0; cap < 64; cap++) {
		if (drop >> cap & 1 &&
		    batch_call(b, BATCH_WARN, err, SYS_prctl, ARGS(PR_CAPBSET_DROP, cap),
			       "dropping capability %d", (int)cap) < 0)
			return -1;
	}
	return 0;
}

/* A stub may have been given some by whoever made it. */
static int queue_ambient(struct batch *b, uint64_t ambient, struct err *err)
{
	if (batch_call(b, BATCH_WARN, err, SYS_prctl, ARGS(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL),
		       "no ambient capabilities") < 0)
		return -1;
	for (uint64_t cap = 0; cap < 64; cap++) {
		if (ambient >> cap & 1 &&
		    batch_call(b, BATCH_WARN, err, SYS_prctl,
			       ARGS(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap),
			       "ambient capability %d", (int)cap) < 0)
			return -1;
	}
	return 0;
}

static int queue_capabilities(struct batch *b, const Snap__Credentials *c,
			      const struct proc_status *now, bool new_ids, struct err *err)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	/* What this kernel or capsule cannot give (a newer capability) is not asked for. */
	uint64_t have = now->cap_prm, want[3] = {c->cap_effective & have, c->cap_permitted & have,
						 c->cap_inheritable & (have | now->cap_inh)};
	struct __user_cap_data_struct data[2];

	for (unsigned i = 0; i < 2; i++)
		data[i] = (struct __user_cap_data_struct){
			.effective = (uint32_t)(want[0] >> 32 * i),
			.permitted = (uint32_t)(want[1] >> 32 * i),
			.inheritable = (uint32_t)(want[2] >> 32 * i),
		};
	if (queue_bounding(b, now->cap_bnd & ~c->cap_bounding, err) < 0 ||
	    /* Without a capsule nothing has set any, and it would be a privilege. */
	    ((c->securebits || !new_ids) &&
	     batch_call(b, BATCH_WARN, err, SYS_prctl, ARGS(PR_SET_SECUREBITS, c->securebits),
			"secure bits %#x", c->securebits) < 0) ||
	    batch_room(b, 1, sizeof(head) + sizeof(data), err) < 0 ||
	    batch_call(b, BATCH_MUST, err, SYS_capset,
		       ARGS(batch_push(b, &head, sizeof(head)), batch_push(b, data, sizeof(data))),
		       "capabilities") < 0)
		return -1;
	return queue_ambient(b, c->cap_ambient & want[1] & want[2], err);
}

/* The ids of a user namespace are fixed: one user, one group. */
static int check_user(const struct recovery *rec, const Snap__Process *p,
		      const struct proc_status *now, struct err *err)
{
	if (!rec->host->user_namespace ||
	    (p->credentials->uid[1] == now->uid[1] && p->credentials->gid[1] == now->gid[1]))
		return 0;
	return err_set(
		err, ERR_DENIED,
		"process %d ran as user %u, group %u; this recovery runs as user %u, group %u",
		p->pid, p->credentials->uid[1], p->credentials->gid[1], now->uid[1], now->gid[1]);
}

static int set_for_thread(struct recovery *rec, struct stub *stub, size_t index,
			  const struct proc_status *now, struct err *err)
{
	const Snap__Credentials *own = stub->model->threads[index]->credentials;
	const Snap__Credentials *c = own ? own : stub->model->credentials;
	struct batch b;

	batch_begin(&b, stub, &stub->threads[index]);
	if (!rec->host->user_namespace && !same_ids(c, now) && queue_ids(&b, c, err) < 0)
		return -1;
	if (queue_capabilities(&b, c, now, rec->host->new_ids, err) < 0)
		return -1;
	if (c->no_new_privs && batch_call(&b, BATCH_MUST, err, SYS_prctl,
					  ARGS(PR_SET_NO_NEW_PRIVS, 1), "no new privileges") < 0)
		return -1;
	return batch_run(&b, err);
}

static int set_for_all(struct recovery *rec, struct stub *stub, const struct proc_status *now,
		       struct err *err)
{
	if (check_user(rec, stub->model, now, err) < 0)
		return -1;
	for (size_t i = 0; i < stub->n_threads; i++) {
		if (set_for_thread(rec, stub, i, now, err) < 0)
			return -1;
	}
	/* Changed ids made it undumpable; stub_set_registers takes care of one that was. */
	return stub_call(stub, &stub->threads[0], NULL, err, "dumpable", SYS_prctl,
			 ARGS(PR_SET_DUMPABLE, 1));
}

int stub_set_credentials(struct recovery *rec, struct stub *stub, struct err *err)
{
	struct proc_status now;
	int result;

	if (proc_read_status(stub->pid, 0, &now, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	/* A process may have given up the privilege to install its filters: before that. */
	result = stub_set_filters(stub, err) < 0 ? -1 : set_for_all(rec, stub, &now, err);
	proc_status_clear(&now);
	return result;
}

int stub_set_zombie_credentials(struct recovery *rec, struct stub *stub, struct err *err)
{
	const Snap__Credentials *c = stub->model->credentials;
	struct proc_status now;
	struct batch b;
	int result = 0;

	if (!c || rec->host->user_namespace)
		return 0;
	if (proc_read_status(stub->pid, 0, &now, err) < 0)
		return err_wrap(err, "process %d", stub->model->pid);
	batch_begin(&b, stub, &stub->threads[0]);
	if (!same_ids(c, &now) && queue_ids(&b, c, err) < 0)
		result = -1;
	proc_status_clear(&now);
	return result < 0 ? -1 : batch_run(&b, err);
}

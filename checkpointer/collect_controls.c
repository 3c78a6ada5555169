#include "checkpointer/controls.h"

#include <errno.h>
#include <linux/keyctl.h>
#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "store/base/cleanup.h"

/*
 * What prctl(2), arch_prctl(2) and sched_setattr(2) set and only the thread itself can tell. A call that the
 * kernel does not know answers with an error, and stands for the default.
 */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing a process");
}

static int refuse(const struct collected_process *p, const char *what, struct err *err)
{
	char label[96];

	return err_set(err, ERR_UNSUPPORTED, "%s: %s", process_label(p->frozen, label, sizeof(label)), what);
}

/* ---- the process --------------------------------------------------------------------------- */

#define N_KEYS 16 /* of protection, x86 and arm64 */

#define GET_REGISTRATIONS (1 << 9) /* include/uapi/linux/membarrier.h, Linux 6.3 */

/* Private commands of membarrier(2): each works only where its registration has been made. */
static const struct {
	uint32_t command, registration;
} barriers[] = {
	{MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED},
	{MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE},
	{MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ},
};

#define N_BARRIERS (sizeof(barriers) / sizeof(barriers[0]))

struct process_queries {
	struct remote_call *memory_merge, *deny, *thread_keyring, *process_keyring, *session_keyring;
	struct remote_call *shadow_stack, *untag;
	uint64_t *shadow_features, *untag_mask;
	struct remote_call *keys[N_KEYS];
	struct remote_call *registrations, *barriers[N_BARRIERS];
};

/* Only a key that has been allocated can be put on memory (mm/mprotect.c): tried on the executor's last page. */
static void queue_keys(struct remote *r, struct process_queries *q)
{
	uint64_t page = r->base + r->size - STORE_PAGE_SIZE, prot = PROT_READ | PROT_WRITE;

	prot |= r->code_apart ? 0 : PROT_EXEC;
	for (uint64_t key = 1; key < N_KEYS; key++)
		q->keys[key] = remote_call(r, SYS_pkey_mprotect, page, STORE_PAGE_SIZE, prot, key);
	remote_call(r, SYS_pkey_mprotect, page, STORE_PAGE_SIZE, prot, 0);
}

static void queue_barriers(struct remote *r, struct process_queries *q)
{
	q->registrations = remote_call(r, SYS_membarrier, GET_REGISTRATIONS);
	for (size_t i = 0; i < N_BARRIERS; i++)
		q->barriers[i] = remote_call(r, SYS_membarrier, barriers[i].command);
}

/* Older kernels do not tell: there, one for all processes (MEMBARRIER_CMD_GLOBAL_EXPEDITED) is not known of. */
static uint32_t registrations_of(const struct process_queries *q)
{
	uint32_t mask = 0;

	if (q->registrations->ret >= 0)
		return (uint32_t)q->registrations->ret;
	for (size_t i = 0; i < N_BARRIERS; i++)
		mask |= q->barriers[i]->ret == 0 ? barriers[i].registration : 0;
	return mask;
}

static void queue_process(struct remote *r, struct process_queries *q)
{
	uint64_t addr;

	q->memory_merge = remote_call(r, SYS_prctl, PR_GET_MEMORY_MERGE);
	q->deny = remote_call(r, SYS_prctl, PR_GET_MDWE);
	/* The last argument 0: not to be made. */
	q->thread_keyring = remote_call(r, SYS_keyctl, KEYCTL_GET_KEYRING_ID,
					(uint64_t)KEY_SPEC_THREAD_KEYRING, 0);
	q->process_keyring = remote_call(r, SYS_keyctl, KEYCTL_GET_KEYRING_ID,
					 (uint64_t)KEY_SPEC_PROCESS_KEYRING, 0);
	q->session_keyring = remote_call(r, SYS_keyctl, KEYCTL_GET_KEYRING_ID,
					 (uint64_t)KEY_SPEC_SESSION_KEYRING, 0);
	q->shadow_features = remote_data(r, sizeof(*q->shadow_features), &addr);
	q->shadow_stack = remote_call(r, SYS_arch_prctl, ARCH_SHSTK_STATUS, addr);
	q->untag_mask = remote_data(r, sizeof(*q->untag_mask), &addr);
	q->untag = remote_call(r, SYS_arch_prctl, ARCH_GET_UNTAG_MASK, addr);
	queue_keys(r, q);
	queue_barriers(r, q);
}

/* A process has the session keyring that it has inherited from us, or its user's default one
 * ("_uid_ses.UID", session-keyring(7)), or else one that it has made or joined. */
static int check_session_keyring(struct collected_process *p, long id, struct err *err)
{
	struct remote *r = &p->remote;
	long own = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
	struct remote_call *call;
	uint64_t addr;
	char *text, *name;

	if (id < 0 || id == own)
		return 0;
	text = remote_data(r, 256, &addr);
	call = remote_call(r, SYS_keyctl, KEYCTL_DESCRIBE, (uint64_t)id, addr, 255);
	if (remote_run(r, &p->frozen->threads[0]->tracee, err) < 0)
		return -1;
	name = call->ret > 0 ? strrchr(text, ';') : NULL;
	if (name && strncmp(name + 1, "_uid_ses.", 9) != 0)
		return refuse(p, "it has a session keyring of its own", err);
	remote_reset(r);
	return 0;
}

static int check_answers(struct collected_process *p, const struct process_queries *q, struct err *err)
{
	long session = (long)q->session_keyring->ret;

	if (q->thread_keyring->ret > 0)
		return refuse(p, "it has a thread keyring", err);
	if (q->process_keyring->ret > 0)
		return refuse(p, "it has a process keyring", err);
	if (q->shadow_stack->ret == 0 && *q->shadow_features)
		return refuse(p, "it has a shadow stack", err);
	if (q->untag->ret == 0 && *q->untag_mask != UINT64_MAX)
		return refuse(p, "it uses linear address masking (tagged pointers)", err);
	remote_reset(&p->remote);
	return check_session_keyring(p, session, err);
}

int collect_process_controls(struct collected_process *p, struct err *err)
{
	Snap__ProcessControl *m = p->model->control = malloc(sizeof(*m));
	struct process_queries q;
	int result;

	if (!m)
		return no_memory(err);
	snap__process_control__init(m);
	queue_process(&p->remote, &q);
	result = remote_run(&p->remote, &p->frozen->threads[0]->tracee, err);
	if (result == 0) {
		m->memory_merge = q.memory_merge->ret == 1;
		m->deny_write_execute = q.deny->ret > 0 ? (uint32_t)q.deny->ret : 0;
		for (uint32_t key = 1; key < N_KEYS; key++)
			m->protection_keys |= q.keys[key]->ret == 0 ? 1u << key : 0;
		m->membarrier = registrations_of(&q);
		result = check_answers(p, &q, err);
	}
	remote_reset(&p->remote);
	return result;
}

/* ---- threads ------------------------------------------------------------------------------- */

void queue_thread_controls(struct remote *r, struct thread_queries *q)
{
	uint64_t addr;

	q->tsc = remote_data(r, sizeof(*q->tsc), &addr);
	remote_call(r, SYS_prctl, PR_GET_TSC, addr);
	q->mce_kill = remote_call(r, SYS_prctl, PR_MCE_KILL_GET);
	q->io_flusher = remote_call(r, SYS_prctl, PR_GET_IO_FLUSHER);
	q->cpuid = remote_call(r, SYS_arch_prctl, ARCH_GET_CPUID);
	q->securebits = remote_call(r, SYS_prctl, PR_GET_SECUREBITS);
	for (uint64_t i = 0; i < N_SPECULATION; i++)
		q->speculation[i] = remote_call(r, SYS_prctl, PR_GET_SPECULATION_CTRL, i);
}

static int take_speculation(Snap__ThreadControl *m, const struct thread_queries *q, struct err *err)
{
	m->speculation = calloc(N_SPECULATION, sizeof(*m->speculation));
	if (!m->speculation)
		return no_memory(err);
	m->n_speculation = N_SPECULATION;
	for (size_t i = 0; i < N_SPECULATION; i++)
		m->speculation[i] = q->speculation[i]->ret > 0 ? (uint32_t)q->speculation[i]->ret : 0;
	return 0;
}

int take_thread_controls(struct collected_process *p, struct frozen_thread *thread,
			 const struct thread_queries *q, Snap__Thread *t, struct err *err)
{
	Snap__ThreadControl *m = t->control = malloc(sizeof(*m));

	if (!m)
		return no_memory(err);
	snap__thread_control__init(m);
	m->tsc = *q->tsc;
	m->mce_kill = q->mce_kill->ret >= 0 ? (int32_t)q->mce_kill->ret : PR_MCE_KILL_DEFAULT;
	m->io_flusher = q->io_flusher->ret == 1;
	m->cpuid_faults = q->cpuid->ret == 0;
	if (take_speculation(m, q, err) < 0)
		return -1;
	return collect_thread_credentials(p, thread, t,
					  q->securebits->ret > 0 ? (uint32_t)q->securebits->ret : 0, err);
}

int collect_scheduling(const struct collected_process *p, const struct frozen_thread *t, Snap__Thread *m,
		       struct err *err)
{
	struct sched_attributes a = {.size = sizeof(a)};

	if (syscall(SYS_sched_getattr, t->tracee.tid, &a, sizeof(a), 0) < 0)
		return err_sys(err, "cannot read the scheduling of thread %d", t->vtid);
	if (a.policy == SCHED_DEADLINE)
		return refuse(p, "it has the scheduling policy SCHED_DEADLINE", err);
	m->policy = (int32_t)a.policy;
	m->priority = (int32_t)a.priority;
	m->control->reset_on_fork = a.flags & SCHED_FLAG_RESET_ON_FORK;
	/* Kernels without uclamp leave both at 0. */
	m->control->has_util = a.util_max != 0 && (a.util_min != 0 || a.util_max != SCHED_CAPACITY);
	m->control->util_min = a.util_min;
	m->control->util_max = a.util_max;
	return 0;
}

int collect_dispatch(const struct frozen_thread *t, Snap__Thread *m, struct err *err)
{
	if (t->has_dispatch &&
	    snap_set_bytes(&m->control->dispatch, &t->dispatch, sizeof(t->dispatch)) < 0)
		return no_memory(err);
	return 0;
}

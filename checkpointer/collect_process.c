#include "checkpointer/collect.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/controls.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/units.h"

#define N_SIGNALS 64
#define N_ITIMERS 3

#ifndef ARCH_GET_XCOMP_PERM
#define ARCH_GET_XCOMP_PERM 0x1022 /* arch/x86/include/uapi/asm/prctl.h, Linux 5.16 */
#endif

/* struct sigaction of the kernel (include/linux/signal_types.h), not glibc's. */
struct kernel_sigaction {
	uint64_t handler, flags, restorer, mask;
};

const char *process_label(const struct frozen_process *p, char *buf, size_t len)
{
	snprintf(buf, len, "process %d (%s)", p->vpid, p->stat.comm);
	return buf;
}

static int no_memory(struct err *err)
{
	return err_set(err, ERR_SYSTEM, "out of memory while describing the job");
}

/* ---- the machine --------------------------------------------------------------------------- */

static int collect_cpu(const struct collection *c, Snap__Host *h, struct err *err)
{
	struct arch_component layout[ARCH_COMPONENTS_MOST];
	size_t n = arch_xstate_layout(layout, ARCH_COMPONENTS_MOST);
	char name[64];
	uint32_t words[16];

	h->xcr0 = arch_xcr0();
	h->xsave_size = arch_xsave_size();
	h->cpu_baseline = c->config->cpu_baseline;
	h->n_cpuid = arch_cpuid_words(words, 16);
	h->cpuid = malloc(sizeof(words));
	arch_cpu_name(name, sizeof(name));
	if (!h->cpuid || snap_set_string(&h->cpu, name) < 0)
		return no_memory(err);
	memcpy(h->cpuid, words, sizeof(words));
	for (size_t i = 0; i < n; i++) {
		Snap__StateComponent *to = snap_append(&h->state_layout, &h->n_state_layout,
						       Snap__StateComponent, SNAP__STATE_COMPONENT__INIT);

		if (!to)
			return no_memory(err);
		to->number = layout[i].number;
		to->offset = layout[i].offset;
		to->size = layout[i].size;
	}
	return 0;
}

int collect_host(struct collection *c, struct err *err)
{
	Snap__Host *h = c->model->host = malloc(sizeof(*h));
	struct utsname uts;
	cleanup_free char *boot_id = NULL;
	struct err ignored;

	if (!h)
		return no_memory(err);
	snap__host__init(h);
	uname(&uts);
	h->page_size = STORE_PAGE_SIZE;
	if (collect_cpu(c, h, err) < 0)
		return -1;
	if (snap_set_string(&h->hostname, uts.nodename) < 0 ||
	    snap_set_string(&h->kernel, uts.release) < 0 || snap_set_string(&h->machine, uts.machine) < 0)
		return no_memory(err);
	if (read_text(AT_FDCWD, "/proc/sys/kernel/random/boot_id", &boot_id, NULL, &ignored) == 0) {
		boot_id[strcspn(boot_id, "\n")] = '\0';
		if (snap_set_string(&h->boot_id, boot_id) < 0)
			return no_memory(err);
	}
	return 0;
}

/* ---- what /proc tells ---------------------------------------------------------------------- */

static int read_link(struct collected_process *p, const char *name, char **field, struct err *err)
{
	char path[64], target[4096], label[96];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", p->frozen->pid, name);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return err_sys(err, "cannot read %s", path);
	target[n] = '\0';
	if (n > 10 && strcmp(target + n - 10, " (deleted)") == 0 && strcmp(name, "cwd") == 0) {
		target[n - 10] = '\0';
		p->model->cwd_deleted = true;
	} else if (n > 10 && strcmp(target + n - 10, " (deleted)") == 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: its %s %s has been removed",
			       process_label(p->frozen, label, sizeof(label)),
			       strcmp(name, "cwd") == 0 ? "working directory" : name, target);
	return snap_set_string(field, target) < 0 ? no_memory(err) : 0;
}

static int copy_ids(uint32_t **field, size_t *n_field, const uint32_t *ids, size_t n)
{
	*field = malloc((n ? n : 1) * sizeof(**field));
	if (!*field)
		return -1;
	if (n)
		memcpy(*field, ids, n * sizeof(**field));
	*n_field = n;
	return 0;
}

int take_credentials(Snap__Credentials **ret, const struct proc_status *s, struct err *err)
{
	Snap__Credentials *k = *ret = malloc(sizeof(*k));

	if (!k)
		return no_memory(err);
	snap__credentials__init(k);
	k->cap_inheritable = s->cap_inh;
	k->cap_permitted = s->cap_prm;
	k->cap_effective = s->cap_eff;
	k->cap_bounding = s->cap_bnd;
	k->cap_ambient = s->cap_amb;
	k->no_new_privs = s->no_new_privs;
	if (copy_ids(&k->uid, &k->n_uid, s->uid, 4) < 0 || copy_ids(&k->gid, &k->n_gid, s->gid, 4) < 0 ||
	    copy_ids(&k->groups, &k->n_groups, s->groups, s->n_groups) < 0)
		return no_memory(err);
	return 0;
}

static bool same_credentials(const struct proc_status *a, const struct proc_status *b)
{
	return memcmp(a->uid, b->uid, sizeof(a->uid)) == 0 && memcmp(a->gid, b->gid, sizeof(a->gid)) == 0 &&
	       a->n_groups == b->n_groups &&
	       (a->n_groups == 0 || memcmp(a->groups, b->groups, a->n_groups * sizeof(*a->groups)) == 0) &&
	       a->cap_inh == b->cap_inh && a->cap_prm == b->cap_prm && a->cap_eff == b->cap_eff &&
	       a->cap_bnd == b->cap_bnd && a->cap_amb == b->cap_amb && a->no_new_privs == b->no_new_privs;
}

int collect_thread_credentials(struct collected_process *p, struct frozen_thread *t, Snap__Thread *m,
			       uint32_t securebits, struct err *err)
{
	const struct proc_status *s = frozen_status(p->frozen, t);

	if (same_credentials(s, &p->frozen->status) &&
	    securebits == p->model->credentials->securebits)
		return 0;
	if (take_credentials(&m->credentials, s, err) < 0)
		return -1;
	m->credentials->securebits = securebits;
	return 0;
}

int collect_limits(struct collected_process *p, struct err *err)
{
	struct proc_limit limits[PROC_N_LIMITS];
	cleanup_free char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/limits", p->frozen->pid);
	if (read_text(AT_FDCWD, path, &text, NULL, err) < 0 ||
	    proc_parse_limits(text, limits, err) < 0)
		return -1;
	for (size_t i = 0; i < PROC_N_LIMITS; i++) {
		Snap__Limit *l = snap_append(&p->model->limits, &p->model->n_limits, Snap__Limit,
					     SNAP__LIMIT__INIT);

		if (!l)
			return no_memory(err);
		l->soft = limits[i].soft;
		l->hard = limits[i].hard;
	}
	return 0;
}

static long read_number_file(pid_t pid, const char *name, int base, long missing)
{
	cleanup_free char *text = NULL;
	struct err ignored;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	if (read_text(AT_FDCWD, path, &text, NULL, &ignored) < 0)
		return missing;
	return strtol(text, NULL, base);
}

static int collect_from_proc(struct collected_process *p, struct err *err)
{
	const struct frozen_process *f = p->frozen;
	Snap__Process *m = p->model;
	char label[96];

	m->umask = f->status.umask;
	m->stopped = f->threads[0]->tracee.group_stopped;
	m->stop_signal = f->threads[0]->tracee.stop_signal;
	m->stop_reported = m->stopped;
	m->exit_signal = f->stat.exit_signal;
	m->oom_score_adj = (int32_t)read_number_file(f->pid, "oom_score_adj", 10, 0);
	m->coredump_filter = (uint32_t)read_number_file(f->pid, "coredump_filter", 16, 0x33);
	if (take_credentials(&m->credentials, &f->status, err) < 0 || read_link(p, "cwd", &m->cwd, err) < 0)
		return -1;
	if (read_link(p, "root", &m->root, err) < 0)
		return -1;
	if (strcmp(m->root, "/") != 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: its root directory is %s",
			       process_label(f, label, sizeof(label)), m->root);
	return 0;
}

/* ---- what only the process itself can tell ------------------------------------------------- */

struct queries {
	struct kernel_sigaction *actions[N_SIGNALS];
	struct itimerval *itimers[N_ITIMERS];
	uint64_t *xcomp;
	int *subreaper;
	struct remote_call *personality, *dumpable, *thp_disable, *securebits, *brk, *xcomp_call;
	struct remote_call *action_calls[N_SIGNALS];
};

static void queue_queries(struct remote *r, struct queries *q)
{
	uint64_t addr;

	for (int i = 0; i < N_SIGNALS; i++) {
		q->actions[i] = remote_data(r, sizeof(*q->actions[i]), &addr);
		q->action_calls[i] = remote_call(r, SYS_rt_sigaction, (uint64_t)i + 1, 0, addr, 8);
	}
	for (int i = 0; i < N_ITIMERS; i++) {
		q->itimers[i] = remote_data(r, sizeof(*q->itimers[i]), &addr);
		remote_call(r, SYS_getitimer, (uint64_t)i, addr);
	}
	q->xcomp = remote_data(r, sizeof(*q->xcomp), &addr);
	q->xcomp_call = remote_call(r, SYS_arch_prctl, ARCH_GET_XCOMP_PERM, addr);
	q->subreaper = remote_data(r, sizeof(*q->subreaper), &addr);
	remote_call(r, SYS_prctl, PR_GET_CHILD_SUBREAPER, addr);
	q->personality = remote_call(r, SYS_personality, 0xffffffff);
	q->dumpable = remote_call(r, SYS_prctl, PR_GET_DUMPABLE);
	q->thp_disable = remote_call(r, SYS_prctl, PR_GET_THP_DISABLE);
	q->securebits = remote_call(r, SYS_prctl, PR_GET_SECUREBITS);
	q->brk = remote_call(r, SYS_brk, 0);
}

static uint64_t timeval_ns(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * NSEC_PER_SEC + (uint64_t)tv->tv_usec * 1000;
}

static int take_actions(Snap__Process *m, const struct queries *q, struct err *err)
{
	for (int i = 0; i < N_SIGNALS; i++) {
		Snap__SigAction *a = snap_append(&m->actions, &m->n_actions, Snap__SigAction,
						 SNAP__SIG_ACTION__INIT);

		if (!a)
			return no_memory(err);
		if (q->action_calls[i]->ret < 0)
			continue; /* SIGKILL and SIGSTOP can be asked, but have nothing to say */
		a->handler = q->actions[i]->handler;
		a->flags = q->actions[i]->flags;
		a->restorer = q->actions[i]->restorer;
		a->mask = q->actions[i]->mask;
	}
	return 0;
}

static int take_itimers(Snap__Process *m, const struct queries *q, struct err *err)
{
	for (int i = 0; i < N_ITIMERS; i++) {
		Snap__IntervalTimer *t = snap_append(&m->interval_timers, &m->n_interval_timers,
						     Snap__IntervalTimer, SNAP__INTERVAL_TIMER__INIT);

		if (!t)
			return no_memory(err);
		t->value = timeval_ns(&q->itimers[i]->it_value);
		t->interval = timeval_ns(&q->itimers[i]->it_interval);
	}
	return 0;
}

static int take_answers(struct collection *c, struct collected_process *p, const struct queries *q,
			struct err *err)
{
	Snap__Process *m = p->model;

	m->personality = (uint64_t)q->personality->ret;
	m->dumpable = q->dumpable->ret == 1 && !p->remote.undumpable;
	m->thp_disable = q->thp_disable->ret == 1;
	m->child_subreaper = *q->subreaper != 0;
	m->credentials->securebits = q->securebits->ret > 0 ? (uint32_t)q->securebits->ret : 0;
	m->xcomp_permission = q->xcomp_call->ret == 0 ? *q->xcomp : 0;
	m->memory->brk = (uint64_t)q->brk->ret;
	return take_actions(m, q, err) < 0 ? -1 : take_itimers(m, q, err);
}

static int collect_by_asking(struct collection *c, struct collected_process *p, struct err *err)
{
	struct queries q;
	int result;

	queue_queries(&p->remote, &q);
	result = remote_run(&p->remote, &p->frozen->threads[0]->tracee, err);
	if (result == 0)
		result = take_answers(c, p, &q, err);
	remote_reset(&p->remote);
	return result;
}

/* ---- memory layout and signals -------------------------------------------------------------- */

static int collect_layout(struct collected_process *p, struct err *err)
{
	const struct proc_stat *s = &p->frozen->stat;
	Snap__Memory *m = p->model->memory = malloc(sizeof(*m));
	cleanup_free char *auxv = NULL;
	char path[64];
	size_t len;

	if (!m)
		return no_memory(err);
	snap__memory__init(m);
	m->start_code = s->start_code;
	m->end_code = s->end_code;
	m->start_data = s->start_data;
	m->end_data = s->end_data;
	m->start_brk = s->start_brk;
	m->start_stack = s->start_stack;
	m->arg_start = s->arg_start;
	m->arg_end = s->arg_end;
	m->env_start = s->env_start;
	m->env_end = s->env_end;
	snprintf(path, sizeof(path), "/proc/%d/auxv", p->frozen->pid);
	if (read_text(AT_FDCWD, path, &auxv, &len, err) < 0)
		return -1;
	return snap_set_bytes(&m->auxv, auxv, len) < 0 ? no_memory(err) : 0;
}

static int collect_shared_pending(struct collected_process *p, struct err *err)
{
	cleanup_free void *list = NULL;
	size_t n;

	if (tracee_peek_pending(&p->frozen->threads[0]->tracee, true, &list, &n, err) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		if (snap_append_bytes(&p->model->pending, &p->model->n_pending, (siginfo_t *)list + i,
				      sizeof(siginfo_t)) < 0)
			return no_memory(err);
	return 0;
}

/* Who else is in it, or has it open, is in the same one again. */
static int collect_removed_directory(struct collection *c, struct collected_process *p, struct err *err)
{
	char label[96], path[64];
	int32_t file;

	if (strncmp(p->model->cwd, "/proc/", 6) == 0)
		return err_set(err, ERR_UNSUPPORTED, "%s: its working directory %s is of a process that has ended",
			       process_label(p->frozen, label, sizeof(label)), p->model->cwd);
	snprintf(path, sizeof(path), "/proc/%d/cwd", p->frozen->pid);
	if (file_table_add(c, path, p->model->cwd, false, &file, err) < 0)
		return -1;
	p->model->cwd_file = 1 + file;
	return 0;
}

int collect_process(struct collection *c, struct collected_process *p, struct err *err)
{
	if (collect_from_proc(p, err) < 0 ||
	    (p->model->cwd_deleted && collect_removed_directory(c, p, err) < 0) || collect_layout(p, err) < 0 ||
	    collect_by_asking(c, p, err) < 0 || collect_process_controls(p, err) < 0 ||
	    collect_posix_timers(p, err) < 0)
		return -1;
	return collect_shared_pending(p, err);
}

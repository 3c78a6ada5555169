#include "checkpointer/sleeps.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "checkpointer/interrupted.h"
#include "store/base/io.h"
#include "store/base/units.h"

struct sleep {
	pid_t vtid;
	uint64_t ip, sp; /* behind the syscall instruction; the stack pointer there */
	long nr;
	uint64_t since; /* CLOCK_MONOTONIC of pawl, ns */
};

struct sleeps {
	struct sleep *list;
	size_t n;
};

int sleeps_new(struct sleeps **ret, struct err *err)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : err_sys(err, "sleep table");
}

void sleeps_free(struct sleeps *sleeps)
{
	if (sleeps)
		free(sleeps->list);
	free(sleeps);
}

static struct sleep *find(struct sleeps *sleeps, pid_t vtid)
{
	for (size_t i = 0; i < sleeps->n; i++)
		if (sleeps->list[i].vtid == vtid)
			return &sleeps->list[i];
	return NULL;
}

/* Out of memory only costs precision: the wait then starts over. */
static struct sleep *find_or_add(struct sleeps *sleeps, pid_t vtid)
{
	struct sleep *s = find(sleeps, vtid);
	struct sleep *more;

	if (s)
		return s;
	more = reallocarray(sleeps->list, sleeps->n + 1, sizeof(*more));
	if (!more)
		return NULL;
	sleeps->list = more;
	s = &more[sleeps->n++];
	memset(s, 0, sizeof(*s));
	s->vtid = vtid;
	return s;
}

void sleeps_seed(struct sleeps *sleeps, const Snap__Snapshot *model, int64_t lead)
{
	uint64_t taken = model->clocks->monotonic - (uint64_t)lead;
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	for (size_t i = 0; i < model->n_processes; i++)
		for (size_t j = 0; j < model->processes[i]->n_threads; j++) {
			const Snap__Thread *t = model->processes[i]->threads[j];
			struct arch_regs regs;
			struct sleep *s;

			if (!t->restart || t->registers.len != sizeof(regs.raw))
				continue;
			memcpy(&regs.raw, t->registers.data, sizeof(regs.raw));
			s = find_or_add(sleeps, t->tid);
			if (!s)
				return;
			s->nr = arch_call_nr(&regs);
			arch_unrewind(&regs, ARCH_ERESTART_RESTARTBLOCK);
			s->ip = arch_ip(&regs);
			s->sp = arch_sp(&regs);
			s->since = taken - t->restart_elapsed;
			/* A later boot's clock, of a job without a capsule: its wait went on from now. */
			if (taken > now || t->restart_elapsed >= taken)
				s->since = now - t->restart_elapsed;
		}
}

/* The call a thread is in: its number, what we remember, or what its code loads. */
static long call_nr(const struct sleep *known, struct frozen_process *p,
		    const struct arch_regs *rewound)
{
	unsigned char code[24];
	struct err ignored;
	long nr = arch_call_nr(rewound);

	if (nr != SYS_restart_syscall)
		return nr;
	if (known)
		return known->nr;
	if (mem_read(p->pid, arch_ip(rewound) + 2 - sizeof(code), code, sizeof(code), &ignored) < 0)
		return -1;
	return arch_guess_call_nr(code, sizeof(code));
}

static int resolve_restart_block(struct sleeps *sleeps, struct frozen_process *p,
				 struct frozen_thread *t, const struct arch_regs *live,
				 struct arch_regs *saved, uint64_t *ret_elapsed, struct err *err)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	struct sleep *s = find(sleeps, t->vtid);
	uint64_t arg[6];
	long nr;

	if (s && (s->ip != arch_ip(live) || s->sp != arch_sp(live)))
		s = NULL;
	/* The same place with the call's own number is a new wait, not the rest of the old one. */
	arch_rewind(saved);
	if (s && arch_call_nr(saved) != SYS_restart_syscall)
		s = NULL;
	nr = call_nr(s, p, saved);
	if (nr < 0)
		return err_set(err, ERR_UNSUPPORTED,
			       "process %d: thread %d waits in a call that cannot be told (stopped and "
			       "continued before pawl saw it)",
			       p->vpid, t->vtid);
	if (!s && (s = find_or_add(sleeps, t->vtid))) {
		s->ip = arch_ip(live);
		s->sp = arch_sp(live);
		s->nr = nr;
		s->since = now - interrupted_slept(t);
	}
	for (unsigned i = 0; i < 6; i++)
		arg[i] = arch_call_arg(saved, i);
	arch_set_call(saved, arch_ip(saved), nr, arg);
	*ret_elapsed = s ? now - s->since : 0;
	return 0;
}

static int resolve_interrupted(struct frozen_process *process, struct frozen_thread *thread,
			       struct arch_regs *live, struct resumption *ret, struct err *err)
{
	if (interrupted_make_again(process, thread, live, &ret->live_changed, err) < 0)
		return -1;
	if (!ret->live_changed) {
		arch_forget_call(&ret->saved);
		return 0;
	}
	ret->code = arch_restart_code(live);
	ret->saved = *live;
	arch_rewind(&ret->saved);
	return 0;
}

static int resolve(struct sleeps *sleeps, struct frozen_process *process, struct frozen_thread *thread,
		   struct arch_regs *live, struct resumption *ret, struct err *err)
{
	*ret = (struct resumption){.saved = *live};
	switch (arch_restart_kind(live)) {
	case ARCH_NOT_IN_CALL:
		arch_forget_call(&ret->saved);
		return 0;
	case ARCH_RESTART_PLAIN:
		ret->code = arch_restart_code(live);
		arch_rewind(&ret->saved);
		return 0;
	case ARCH_RESTART_BLOCK:
		ret->restart = true;
		return resolve_restart_block(sleeps, process, thread, live, &ret->saved, &ret->elapsed, err);
	case ARCH_INTERRUPTED:
		return resolve_interrupted(process, thread, live, ret, err);
	}
	return 0;
}

int sleeps_resolve(struct sleeps *sleeps, struct frozen_process *process,
		   struct frozen_thread *thread, struct arch_regs *live, struct resumption *ret,
		   struct err *err)
{
	int result = resolve(sleeps, process, thread, live, ret, err);

	thread->resolved = result == 0;
	return result;
}

static int note_thread(struct sleeps *sleeps, struct frozen_process *p, struct frozen_thread *t, struct err *err)
{
	struct resumption how;
	struct arch_regs live;

	if (t->tracee.state != TRACEE_STOPPED || tracee_get_regs(&t->tracee, &live, err) < 0 ||
	    sleeps_resolve(sleeps, p, t, &live, &how, err) < 0)
		return -1;
	return how.live_changed ? tracee_set_regs(&t->tracee, &live, err) : 0;
}

void sleeps_note(struct sleeps *sleeps, struct frozen_tree *tree)
{
	struct err ignored;

	for (size_t i = 0; i < tree->n; i++)
		for (size_t j = 0; j < tree->processes[i].n_threads; j++)
			note_thread(sleeps, &tree->processes[i], tree->processes[i].threads[j], &ignored);
}

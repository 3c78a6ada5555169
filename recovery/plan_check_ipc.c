/* What a model must say of IPC objects before anything is built from it. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "checkpointer/tracee/ipc_limits.h"
#include "recovery/plan.h"
#include "store/store.h"

#define SETS_MOST     65536
#define VALUE_MOST    32767 /* SEMVMX */
#define PRIORITY_MOST 32767 /* MQ_PRIO_MAX - 1 */
#define QUEUE_BYTES   (1ull << 31)

static int corrupt(struct err *err, const char *what, long id)
{
	return err_set(err, ERR_CORRUPT, "the snapshot contradicts itself: %s %ld", what, id);
}

static uint64_t pages_up(uint64_t size)
{
	return (size + STORE_PAGE_SIZE - 1) & ~(uint64_t)(STORE_PAGE_SIZE - 1);
}

/* Segments by file; NULL: none, or more than one. */
static const Snap__SysvSegment *segment_of(const Snap__Snapshot *model, int32_t file)
{
	const Snap__SysvSegment *found = NULL;

	for (size_t i = 0; i < model->n_segments; i++) {
		if (model->segments[i]->file != file)
			continue;
		if (found)
			return NULL;
		found = model->segments[i];
	}
	return found;
}

static int check_segment(const Snap__Snapshot *model, size_t index, struct err *err)
{
	const Snap__SysvSegment *s = model->segments[index];

	if (!s->object || s->object->id < 0 || s->size == 0 ||
	    s->size > INT64_MAX - STORE_PAGE_SIZE || s->file < 0 ||
	    (size_t)s->file >= model->n_files ||
	    model->files[s->file]->kind != SNAP__FILE__KIND__SYSV ||
	    segment_of(model, s->file) != s)
		return corrupt(err, "System V shared memory", (long)index);
	return 0;
}

static int check_semaphores(const Snap__SysvSemaphores *s, size_t index, struct err *err)
{
	if (!s->object || s->object->id < 0 || s->n_values == 0 || s->n_values > SETS_MOST ||
	    s->n_pids > s->n_values)
		return corrupt(err, "System V semaphore set", (long)index);
	for (size_t i = 0; i < s->n_values; i++)
		if (s->values[i] > VALUE_MOST)
			return corrupt(err, "value in System V semaphore set", (long)index);
	return 0;
}

static int check_queue(const Snap__SysvQueue *q, size_t index, struct err *err)
{
	if (!q->object || q->object->id < 0)
		return corrupt(err, "System V message queue", (long)index);
	for (size_t i = 0; i < q->n_messages; i++)
		if (q->messages[i]->type <= 0)
			return corrupt(err, "message of System V message queue", (long)index);
	return 0;
}

static int check_posix_queue(const Snap__PosixQueue *q, size_t index, struct err *err)
{
	bool named = q->name && *q->name && !strchr(q->name, '/') && strlen(q->name) < NAME_MAX &&
		     strcmp(q->name, ".") != 0 && strcmp(q->name, "..") != 0;

	if (!named || q->most_messages == 0 || q->message_size == 0 || q->most_messages > INT_MAX ||
	    q->message_size > INT_MAX || q->most_messages * q->message_size > QUEUE_BYTES ||
	    q->n_messages > q->most_messages)
		return corrupt(err, "POSIX message queue", (long)index);
	for (size_t i = 0; i < q->n_messages; i++)
		if (q->messages[i]->priority > PRIORITY_MOST ||
		    q->messages[i]->data.len > q->message_size)
			return corrupt(err, "message of POSIX message queue", (long)index);
	return 0;
}

static int check_undo(const Snap__Snapshot *model, const Snap__SemaphoreUndo *u, int32_t pid,
		      struct err *err)
{
	for (size_t i = 0; i < model->n_semaphores; i++)
		if (model->semaphores[i]->object->id == u->id &&
		    u->number < model->semaphores[i]->n_values &&
		    u->adjustment >= -VALUE_MOST - 1 && u->adjustment <= VALUE_MOST)
			return 0;
	return corrupt(err, "undo of a semaphore by process", pid);
}

static int check_region(const Snap__Snapshot *model, const Snap__Region *r, int32_t pid,
			struct err *err)
{
	const Snap__SysvSegment *s = segment_of(model, r->file);

	if (!s || r->offset % STORE_PAGE_SIZE || r->offset > pages_up(s->size) ||
	    r->start < r->offset || r->end - r->start > pages_up(s->size) - r->offset ||
	    (r->read_only && r->prot & PROT_WRITE))
		return corrupt(err, "System V shared memory of process", pid);
	return 0;
}

static int check_process(const Snap__Snapshot *model, const Snap__Process *p, struct err *err)
{
	for (size_t i = 0; i < p->n_regions; i++)
		if (p->regions[i]->kind == SNAP__REGION__KIND__SYSV_SHM &&
		    check_region(model, p->regions[i], p->pid, err) < 0)
			return -1;
	for (size_t i = 0; i < p->n_undos; i++)
		if (check_undo(model, p->undos[i], p->pid, err) < 0)
			return -1;
	return 0;
}

static int check_limit(const Snap__IpcLimit *l, size_t index, struct err *err)
{
	if (!l->name || !l->value || !ipc_limit_is_known(l->name) ||
	    l->value[strspn(l->value, "0123456789 \t-")] || strlen(l->value) > 120)
		return corrupt(err, "limit of IPC objects", (long)index);
	return 0;
}

int plan_check_ipc(const Snap__Snapshot *model, struct err *err)
{
	for (size_t i = 0; i < model->n_segments; i++)
		if (check_segment(model, i, err) < 0)
			return -1;
	for (size_t i = 0; i < model->n_semaphores; i++)
		if (check_semaphores(model->semaphores[i], i, err) < 0)
			return -1;
	for (size_t i = 0; i < model->n_queues; i++)
		if (check_queue(model->queues[i], i, err) < 0)
			return -1;
	for (size_t i = 0; i < model->n_posix_queues; i++)
		if (check_posix_queue(model->posix_queues[i], i, err) < 0)
			return -1;
	for (size_t i = 0; i < model->n_ipc_limits; i++)
		if (check_limit(model->ipc_limits[i], i, err) < 0)
			return -1;
	for (size_t i = 0; i < model->n_processes; i++)
		if (check_process(model, model->processes[i], err) < 0)
			return -1;
	return 0;
}

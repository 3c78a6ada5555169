/*
 * The steps of a plan in words.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/socket.h>

#include "checkpointer/tracee/sockdiag.h"
#include "recovery/plan.h"
#include "store/base/units.h"

static const char *file_name(const Snap__File *file)
{
	return file->path && *file->path ? file->path : "(unnamed)";
}

static void file_text(const char *verb, const Snap__File *file, char *buf, size_t len)
{
	char size[32];

	snprintf(buf, len, "%s %s (%s)", verb, file_name(file),
		 format_size(file->size, size, sizeof(size)));
}

static void tree_text(const struct plan_step *step, const Snap__Snapshot *model, char *buf,
		      size_t len)
{
	const Snap__Tree *tree = model->trees[step->object];
	char size[32];

	snprintf(buf, len, "%s directory %s (%" PRIu64 " files, %s)",
		 step->kind == PLAN_VERIFY_TREE ? "compare" : "put back", tree->path, tree->files,
		 format_size(tree->bytes, size, sizeof(size)));
}

static void socket_text(const Snap__OpenFile *open, size_t index, char *buf, size_t len)
{
	const char *kind = open->domain == AF_UNIX	? "Unix"
			   : open->domain == AF_NETLINK ? "netlink"
			   : open->type == SOCK_STREAM	? "TCP"
							: "UDP";
	const Snap__Socket *s = open->socket;
	uint64_t unread = open->queue.len;
	char local[128] = "", remote[128] = "";

	for (size_t i = 0; s && i < s->n_messages; i++)
		unread += s->messages[i]->data.len;
	if (s && s->local.len)
		address_text(s->local.data, s->local.len, local, sizeof(local));
	if (s && s->remote.len)
		address_text(s->remote.data, s->remote.len, remote, sizeof(remote));
	snprintf(buf, len, "make %s socket %" PRIu64 "%s%s%s%s as open file %zu, %" PRIu64 " bytes unread",
		 kind, open->object, *local ? " at " : "", local, *remote ? " connected to " : "", remote,
		 index, unread);
}

static void open_text(const Snap__Snapshot *model, size_t index, char *buf, size_t len)
{
	const Snap__OpenFile *open = model->open_files[index];

	switch (open->kind) {
	case SNAP__OPEN_FILE__KIND__STREAM:
		snprintf(buf, len, "take standard stream %d as open file %zu", open->stream, index);
		return;
	case SNAP__OPEN_FILE__KIND__TERMINAL:
		snprintf(buf, len, "take the capsule's terminal as open file %zu", index);
		return;
	case SNAP__OPEN_FILE__KIND__PIPE:
		snprintf(buf, len, "make pipe %" PRIu64 " as open file %zu, %zu bytes unread",
			 open->object, index, open->queue.len);
		return;
	case SNAP__OPEN_FILE__KIND__EVENTFD:
		snprintf(buf, len, "make event counter %" PRIu64 " as open file %zu", open->value,
			 index);
		return;
	case SNAP__OPEN_FILE__KIND__SIGNALFD:
		snprintf(buf, len, "make a signal descriptor as open file %zu", index);
		return;
	case SNAP__OPEN_FILE__KIND__TIMERFD:
		snprintf(buf, len, "make a timer as open file %zu", index);
		return;
	case SNAP__OPEN_FILE__KIND__MESSAGE_QUEUE:
		snprintf(buf, len, "open POSIX message queue /%s as open file %zu",
			 model->posix_queues[open->object]->name, index);
		return;
	case SNAP__OPEN_FILE__KIND__INOTIFY:
		snprintf(buf, len, "make an inotify instance as open file %zu", index);
		return;
	case SNAP__OPEN_FILE__KIND__EPOLL:
		snprintf(buf, len,
			 "make an epoll instance as open file %zu, %zu descriptors watched", index,
			 open->n_watched);
		return;
	case SNAP__OPEN_FILE__KIND__SOCKET:
		socket_text(open, index, buf, len);
		return;
	case SNAP__OPEN_FILE__KIND__PIDFD:
		snprintf(buf, len, "make a pidfd of process %d as open file %zu", open->pid, index);
		return;
	case SNAP__OPEN_FILE__KIND__PTY_MASTER:
	case SNAP__OPEN_FILE__KIND__PTY_SLAVE:
		snprintf(buf, len, "open the %s of pseudo-terminal %d as open file %zu",
			 open->kind == SNAP__OPEN_FILE__KIND__PTY_MASTER ? "master" : "slave",
			 model->terminals[open->terminal]->index, index);
		return;
	default:
		snprintf(buf, len, "open %s as open file %zu, flags %#o, offset %" PRIu64,
			 file_name(model->files[open->file]), index, open->flags, open->offset);
	}
}

/* Whether the step is about an IPC object, or an inotify instance. */
static bool ipc_text(const struct plan_step *step, const Snap__Snapshot *model, char *buf, size_t len)
{
	size_t i = step->object;
	char size[32];

	switch (step->kind) {
	case PLAN_IPC_LIMIT:
		snprintf(buf, len, "limit %s: %s", model->ipc_limits[i]->name, model->ipc_limits[i]->value);
		return true;
	case PLAN_POSIX_QUEUE:
		snprintf(buf, len, "make POSIX message queue /%s (%zu messages)", model->posix_queues[i]->name,
			 model->posix_queues[i]->n_messages);
		return true;
	case PLAN_FINISH_POSIX_QUEUE:
		snprintf(buf, len, "owner and mode of POSIX message queue /%s", model->posix_queues[i]->name);
		return true;
	case PLAN_WATCH:
		snprintf(buf, len, "%zu watches of the inotify instance at open file %zu",
			 model->open_files[i]->n_watches, i);
		return true;
	case PLAN_SEGMENT:
		snprintf(buf, len, "make System V shared memory %d (%s)", model->segments[i]->object->id,
			 format_size(model->segments[i]->size, size, sizeof(size)));
		return true;
	case PLAN_FINISH_SEGMENT:
		snprintf(buf, len, "let go of System V shared memory %d%s", model->segments[i]->object->id,
			 model->segments[i]->removed ? ", which is removed" : "");
		return true;
	case PLAN_SEMAPHORES:
		snprintf(buf, len, "make System V semaphore set %d (%zu semaphores)",
			 model->semaphores[i]->object->id, model->semaphores[i]->n_values);
		return true;
	case PLAN_QUEUE:
		snprintf(buf, len, "make System V message queue %d (%zu messages)",
			 model->queues[i]->object->id, model->queues[i]->n_messages);
		return true;
	default:
		return false;
	}
}

static uint64_t mapped_bytes(const Snap__Process *p)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < p->n_regions; i++)
		sum += p->regions[i]->end - p->regions[i]->start;
	return sum;
}

static void birth_text(const struct plan *plan, const struct plan_step *step,
		       const Snap__Snapshot *model, char *buf, size_t len)
{
	const struct birth *birth = &plan->lineage.births[step->process];
	bool helper = step->process >= model->n_processes;
	int by = birth->by == LINEAGE_INIT ? 1
					   : lineage_member(&plan->lineage, model, birth->by)->pid;

	snprintf(buf, len, "%s %d: create %s %d", helper ? "helper" : "process",
		 lineage_member(&plan->lineage, model, step->process)->pid,
		 birth->sibling ? "beside" : "as child of", by);
}

static void end_text(const struct plan *plan, const struct plan_step *step,
		     const Snap__Snapshot *model, char *buf, size_t len)
{
	const Snap__Process *p = lineage_member(&plan->lineage, model, step->process);

	if (step->process >= model->n_processes)
		snprintf(buf, len, "helper %d: end", p->pid);
	else
		snprintf(buf, len, "process %d: end with status %#x, not waited for", p->pid,
			 p->exit_status);
}

static void process_text(const struct plan_step *step, const Snap__Process *p, char *buf,
			 size_t len)
{
	char size[32];

	switch (step->kind) {
	case PLAN_SESSION:
		snprintf(buf, len, "process %d: new session", p->pid);
		return;
	case PLAN_FOUND:
		snprintf(buf, len, "process %d: new process group", p->pid);
		return;
	case PLAN_GROUP:
		snprintf(buf, len, "process %d: process group %d", p->pid, p->pgid);
		return;
	case PLAN_CLEAR:
		snprintf(buf, len, "process %d: empty address space, vdso at %#" PRIx64, p->pid,
			 p->memory->vdso);
		return;
	case PLAN_MAP:
		snprintf(buf, len, "process %d: map and fill %zu regions, %s", p->pid, p->n_regions,
			 format_size(mapped_bytes(p), size, sizeof(size)));
		return;
	case PLAN_DESCRIPTORS:
		snprintf(buf, len, "process %d: place %zu descriptors", p->pid, p->n_fds);
		return;
	case PLAN_ATTRIBUTES:
		snprintf(buf, len, "process %d: directory %s, umask %#o, signal handlers", p->pid,
			 p->cwd, p->umask);
		return;
	case PLAN_THREADS:
		snprintf(buf, len, "process %d: create %zu further threads", p->pid,
			 p->n_threads - 1);
		return;
	case PLAN_TIMERS:
		snprintf(buf, len, "process %d: %zu POSIX timers, interval timers, pending signals",
			 p->pid, p->n_posix_timers);
		return;
	case PLAN_RESTART:
		snprintf(buf, len, "process %d: thread %d back into its timed wait", p->pid,
			 p->threads[step->object]->tid);
		return;
	default:
		break;
	}
}

const char *plan_step_text(const struct plan *plan, const struct plan_step *step,
			   const Snap__Snapshot *model, char *buf, size_t len)
{
	static const char *const about_file[] = {
		[PLAN_VERIFY_FILE] = "read and compare",
		[PLAN_IDENTIFY_FILE] = "look for",
		[PLAN_TEMPORARY_FILE] = "make without a name:",
		[PLAN_RESTORE_FILE] = "put back",
		[PLAN_TRUNCATE_FILE] = "cut back",
		[PLAN_FINISH_FILE] = "mode, times and seals of",
	};
	static const char *const about_process[] = {
		[PLAN_SHED] = "give up regions that only its children keep",
		[PLAN_VERIFY_PAGES] = "read the pages of regions over restored files",
		[PLAN_MAP_FILES] = "map and fill regions over restored files",
		[PLAN_ATTACH] = "attach System V shared memory",
		[PLAN_UNDO] = "what SEM_UNDO gives back at its end",
		[PLAN_TOUCH] = "semaphores that it was the last to change",
		[PLAN_COMPARE] = "compare its memory with what is stored",
		[PLAN_PROTECT] = "protection, advice, brk, arguments, executable",
		[PLAN_LAST_PID] = "last pid given",
		[PLAN_CREDENTIALS] = "credentials",
		[PLAN_FORGET] = "forget what it was told of its children",
		[PLAN_REGISTERS] = "limits, registers and signal masks",
	};
	const Snap__Process *p = NULL;
	size_t kind = step->kind;

	if (model->n_processes)
		p = lineage_member(&plan->lineage, model, step->process);

	if (ipc_text(step, model, buf, len))
		return buf;
	if (kind < sizeof(about_file) / sizeof(*about_file) && about_file[kind])
		file_text(about_file[kind], model->files[step->object], buf, len);
	else if (kind == PLAN_PRIVATE || kind == PLAN_FINISH_PRIVATE)
		snprintf(buf, len, "%s %s", kind == PLAN_PRIVATE ? "make" : "names, mode and times of",
			 model->private_entries[step->object]->path);
	else if (kind == PLAN_TERMINAL || kind == PLAN_FINISH_TERMINAL)
		snprintf(buf, len, "%s pseudo-terminal %d",
			 kind == PLAN_TERMINAL ? "make" : "session and modes of",
			 model->terminals[step->object]->index);
	else if (kind == PLAN_OPEN || kind == PLAN_SOCKETS)
		open_text(model, step->object, buf, len);
	else if (kind < sizeof(about_process) / sizeof(*about_process) && about_process[kind])
		snprintf(buf, len, "process %d: %s", p->pid, about_process[kind]);
	else if (kind == PLAN_VERIFY_TREE || kind == PLAN_RESTORE_TREE)
		tree_text(step, model, buf, len);
	else if (kind == PLAN_SPAWN)
		birth_text(plan, step, model, buf, len);
	else if (kind == PLAN_END)
		end_text(plan, step, model, buf, len);
	else
		process_text(step, p, buf, len);
	return buf;
}

void plan_print(const struct plan *plan, const Snap__Snapshot *model, FILE *out)
{
	char line[4400];

	for (size_t i = 0; i < plan->n_steps; i++)
		fprintf(out, "%3zu. %s\n", i + 1,
			plan_step_text(plan, &plan->steps[i], model, line, sizeof(line)));
}

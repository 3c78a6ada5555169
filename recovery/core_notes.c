/*
 * The notes of a core file, in the kernel's order (fs/binfmt_elf.c fill_note_info): of the first
 * thread NT_PRSTATUS, then those of the process, then the rest of its own; then the other threads'.
 */
#include <elf.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>

#include "checkpointer/tracee/arch.h"
#include "recovery/core_impl.h"
#include "recovery/rebuild.h"
#include "store/base/cleanup.h"

_Static_assert(sizeof(elf_gregset_t) == sizeof(struct arch_regs), "one register set");

struct notes {
	const struct core *core;
	uint8_t *bytes;
	size_t len, room;
	bool failed; /* without memory */
};

static void append(struct notes *n, const void *data, size_t len)
{
	if (!n->failed && n->len + len > n->room) {
		size_t room = 2 * (n->len + len) + 4096;
		uint8_t *grown = realloc(n->bytes, room);

		n->failed = !grown;
		if (grown) {
			n->bytes = grown;
			n->room = room;
		}
	}
	if (n->failed)
		return;
	if (data)
		memcpy(n->bytes + n->len, data, len);
	else
		memset(n->bytes + n->len, 0, len);
	n->len += len;
}

static void append_word(struct notes *n, uint64_t value)
{
	append(n, &value, sizeof(value));
}

static void align(struct notes *n)
{
	append(n, NULL, -n->len & 3);
}

/* Everything but the description of `len` bytes, which is to follow. */
static void begin_note(struct notes *n, const char *name, uint32_t type, size_t len)
{
	const Elf64_Nhdr head = {.n_namesz = (Elf64_Word)strlen(name) + 1,
				 .n_descsz = (Elf64_Word)len,
				 .n_type = type};

	append(n, &head, sizeof(head));
	append(n, name, head.n_namesz);
	align(n);
}

static void add_note(struct notes *n, const char *name, uint32_t type, const void *data, size_t len)
{
	begin_note(n, name, type, len);
	append(n, data, len);
	align(n);
}

/* ---- of a thread --------------------------------------------------------------------------- */

static uint64_t pending_mask(const ProtobufCBinaryData *pending, size_t n)
{
	uint64_t mask = 0;

	for (size_t i = 0; i < n; i++)
		mask |= 1ull << (((const siginfo_t *)(const void *)pending[i].data)->si_signo - 1);
	return mask;
}

static void add_status(struct notes *n, const Snap__Thread *t)
{
	const Snap__Process *p = n->core->process;
	struct elf_prstatus status = {
		.pr_sigpend = pending_mask(t->pending, t->n_pending) |
			      pending_mask(p->pending, p->n_pending),
		.pr_sighold = t->blocked,
		.pr_pid = t->tid,
		.pr_ppid = p->ppid,
		.pr_pgrp = p->pgid,
		.pr_sid = p->sid,
		.pr_fpvalid = t->xstate.len > 0,
	};

	if (p->stopped)
		status.pr_cursig = (short)(p->stop_signal ? p->stop_signal : SIGSTOP);
	status.pr_info.si_signo = status.pr_cursig;
	memcpy(&status.pr_reg, t->registers.data, sizeof(status.pr_reg));
	add_note(n, "CORE", NT_PRSTATUS, &status, sizeof(status));
}

static void add_float(struct notes *n, const Snap__Thread *t)
{
	size_t len = native_fpregs_size();

	if (t->xstate.len < len)
		return;
	add_note(n, "CORE", NT_PRFPREG, t->xstate.data, len);
	add_note(n, "LINUX", native_xstate_note(), t->xstate.data, t->xstate.len);
}

/* The signal that waits for the thread, its own first. */
static void add_siginfo(struct notes *n, const Snap__Thread *t)
{
	const Snap__Process *p = n->core->process;
	const ProtobufCBinaryData *info = t->n_pending	 ? &t->pending[0]
					  : p->n_pending ? &p->pending[0]
							 : NULL;

	if (info)
		add_note(n, "CORE", NT_SIGINFO, info->data, info->len);
}

/* ---- of the process ------------------------------------------------------------------------ */

/* The part of the process's own pages from `at` on, as much as is stored. */
static size_t read_memory(const struct core *core, uint64_t at, char *buf, size_t len)
{
	char page[STORE_PAGE_SIZE];
	struct page_reader *reader;
	struct err ignored;
	size_t done = 0;

	if (page_reader_open(&reader, core->store, core->memory->pages_root, &ignored) < 0)
		return 0;
	while (done < len) {
		size_t within = (at + done) % STORE_PAGE_SIZE;
		size_t n = sizeof(page) - within < len - done ? sizeof(page) - within : len - done;

		if (page_reader_read(reader, (at + done) / STORE_PAGE_SIZE, 1, page, &ignored) < 0)
			break;
		memcpy(buf + done, page + within, n);
		done += n;
	}
	page_reader_close(reader);
	return done;
}

static void add_process(struct notes *n)
{
	const Snap__Process *p = n->core->process;
	const Snap__Memory *m = n->core->memory->memory;
	struct elf_prpsinfo info = {
		.pr_state = p->stopped ? 3 : 1,
		.pr_sname = p->stopped ? 'T' : 'S',
		.pr_nice = (char)p->threads[0]->nice,
		.pr_uid = p->credentials->uid[0],
		.pr_gid = p->credentials->gid[0],
		.pr_pid = p->pid,
		.pr_ppid = p->ppid,
		.pr_pgrp = p->pgid,
		.pr_sid = p->sid,
	};
	uint64_t room = sizeof(info.pr_psargs) - 1, len = m->arg_end - m->arg_start;
	size_t got = m->arg_end > m->arg_start ? read_memory(n->core, m->arg_start, info.pr_psargs,
							     (size_t)(len < room ? len : room))
					       : 0;

	for (size_t i = 0; i + 1 < got; i++)
		if (info.pr_psargs[i] == '\0')
			info.pr_psargs[i] = ' ';
	strncpy(info.pr_fname, p->threads[0]->comm, sizeof(info.pr_fname) - 1);
	add_note(n, "CORE", NT_PRPSINFO, &info, sizeof(info));
}

static const Snap__File *file_of(const struct core *core, const Snap__Region *r)
{
	const Snap__File *file = r->file >= 0 ? core->model->files[r->file] : NULL;

	return file && file->path[0] == '/' ? file : NULL;
}

/* fs/binfmt_elf.c fill_files_note: count, page size, triples, then the names. */
static void add_files(struct notes *n)
{
	const Snap__Process *m = n->core->memory;
	uint64_t count = 0, len = 0;

	for (size_t i = 0; i < m->n_regions; i++) {
		const Snap__File *file = file_of(n->core, m->regions[i]);

		count += file != NULL;
		len += file ? strlen(file->path) + 1 + 3 * sizeof(uint64_t) : 0;
	}
	begin_note(n, "CORE", NT_FILE, 2 * sizeof(uint64_t) + len);
	append_word(n, count);
	append_word(n, STORE_PAGE_SIZE);
	for (size_t i = 0; i < m->n_regions; i++) {
		const Snap__Region *r = m->regions[i];

		if (!file_of(n->core, r))
			continue;
		append_word(n, r->start);
		append_word(n, r->end);
		append_word(n, r->offset / STORE_PAGE_SIZE);
	}
	for (size_t i = 0; i < m->n_regions; i++) {
		const Snap__File *file = file_of(n->core, m->regions[i]);

		if (file)
			append(n, file->path, strlen(file->path) + 1);
	}
	align(n);
}

int core_notes(const struct core *core, uint8_t **ret, size_t *ret_len, struct err *err)
{
	const Snap__Process *p = core->process;
	const Snap__Memory *m = core->memory->memory;
	struct notes notes = {.core = core};
	size_t first = p->leader_exited;

	for (size_t i = first; i < p->n_threads; i++) {
		const Snap__Thread *t = p->threads[i];

		add_status(&notes, t);
		if (i == first)
			add_process(&notes);
		add_siginfo(&notes, t);
		if (i == first) {
			add_note(&notes, "CORE", NT_AUXV, m->auxv.data, m->auxv.len);
			add_files(&notes);
		}
		add_float(&notes, t);
	}
	if (notes.failed) {
		free(notes.bytes);
		return err_set(err, ERR_SYSTEM, "out of memory");
	}
	*ret = notes.bytes;
	*ret_len = notes.len;
	return 0;
}

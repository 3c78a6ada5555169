/*
 * A core file's bytes: headers and notes, then the pages, by as many threads as help. The disk is
 * kept busy meanwhile, so that little is left for the sync at the end.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "recovery/core_impl.h"
#include "recovery/readers.h"
#include "recovery/rebuild.h"
#include "store/base/cleanup.h"
#include "store/base/io.h"
#include "store/base/parallel.h"

#define MAX_WORKERS 8

struct writing {
	struct core *core;
	int fd;
	uint64_t data; /* where the segments begin */
	atomic_size_t next;
	atomic_bool failed;
	atomic_ullong bytes;
};

struct worker {
	struct writing *writing;
	struct readers readers;
	char *buf;
};

/* ---- headers ------------------------------------------------------------------------------- */

static uint64_t page_up(uint64_t value)
{
	return (value + STORE_PAGE_SIZE - 1) & ~((uint64_t)STORE_PAGE_SIZE - 1);
}

static void fill_header(Elf64_Ehdr *head, uint64_t n, uint64_t sections_at)
{
	*head = (Elf64_Ehdr){
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT,
			    ELFOSABI_NONE},
		.e_type = ET_CORE,
		.e_machine = (Elf64_Half)native_elf_machine(),
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(*head),
		.e_ehsize = sizeof(*head),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = n < PN_XNUM ? (Elf64_Half)n : PN_XNUM,
	};
	if (n < PN_XNUM)
		return;
	/* elf(5), PN_XNUM: the real number stands in the first section header. */
	head->e_shoff = sections_at;
	head->e_shentsize = sizeof(Elf64_Shdr);
	head->e_shnum = 1;
}

static Elf64_Phdr program_header(const struct core_segment *s, uint64_t data)
{
	return (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_flags = (s->prot & PROT_READ ? PF_R : 0u) | (s->prot & PROT_WRITE ? PF_W : 0u) |
			   (s->prot & PROT_EXEC ? PF_X : 0u),
		.p_offset = data + s->at,
		.p_vaddr = s->start,
		.p_filesz = s->filled - s->start,
		.p_memsz = s->end - s->start,
		.p_align = STORE_PAGE_SIZE,
	};
}

/* Header, program headers, the section header where it is needed, notes. */
static int write_front(struct writing *w, const uint8_t *notes, size_t notes_len, struct err *err)
{
	const struct core *core = w->core;
	uint64_t n = core->n_segments + 1;
	uint64_t sections_at = sizeof(Elf64_Ehdr) + n * sizeof(Elf64_Phdr);
	uint64_t notes_at = sections_at + (n >= PN_XNUM ? sizeof(Elf64_Shdr) : 0);
	cleanup_free uint8_t *front = calloc(1, notes_at + notes_len);
	Elf64_Phdr *program;

	if (!front)
		return err_set(err, ERR_SYSTEM, "out of memory");
	w->data = page_up(notes_at + notes_len);
	fill_header((Elf64_Ehdr *)(void *)front, n, sections_at);
	program = (Elf64_Phdr *)(void *)(front + sizeof(Elf64_Ehdr));
	*program++ = (Elf64_Phdr){
		.p_type = PT_NOTE, .p_offset = notes_at, .p_filesz = notes_len, .p_align = 4};
	for (size_t i = 0; i < core->n_segments; i++)
		*program++ = program_header(&core->segments[i], w->data);
	if (n >= PN_XNUM)
		((Elf64_Shdr *)(void *)(front + sections_at))->sh_info = (Elf64_Word)n;
	memcpy(front + notes_at, notes, notes_len);
	if (ftruncate(w->fd, (off_t)(w->data + core->length)) < 0 ||
	    pwrite_full(w->fd, front, notes_at + notes_len, 0) < 0)
		return err_sys(err, "writing a core file of %llu bytes",
			       (unsigned long long)(w->data + core->length));
	return 0;
}

/* ---- pages --------------------------------------------------------------------------------- */

/* *ret: bytes that are to be written, 0: the piece is zeroes. */
static int read_piece(struct worker *w, const struct core_piece *piece, size_t *ret,
		      struct err *err)
{
	size_t len = (size_t)piece->n * STORE_PAGE_SIZE, at = piece->first * STORE_PAGE_SIZE;
	struct page_reader *reader;
	ssize_t got;

	*ret = 0;
	if (piece->bytes) {
		*ret = piece->len - at < len ? piece->len - at : len;
		memcpy(w->buf, (const char *)piece->bytes + at, *ret);
	} else if (piece->fd >= 0) {
		got = pread_upto(piece->fd, w->buf, len, (off_t)at);
		if (got < 0)
			return err_sys(err, "reading a mapped file");
		*ret = (size_t)got;
	} else if (piece->root) {
		if (readers_get(&w->readers, piece->root, &reader, err) < 0 ||
		    page_reader_read(reader, piece->first, piece->n, w->buf, err) < 0)
			return -1;
		*ret = len;
	}
	return 0;
}

static int write_pieces(struct worker *w, struct err *err)
{
	struct writing *writing = w->writing;
	size_t i, len;

	while (!writing->failed &&
	       (i = atomic_fetch_add(&writing->next, 1)) < writing->core->n_pieces) {
		const struct core_piece *piece = &writing->core->pieces[i];
		off_t at = (off_t)(writing->data + piece->at);

		if (read_piece(w, piece, &len, err) < 0)
			return -1;
		if (len && pwrite_full(writing->fd, w->buf, len, at) < 0)
			return err_sys(err, "writing a core file");
		/* Only a hint: what fails is told by the sync at the end. */
		if (len)
			sync_file_range(writing->fd, at, (off_t)len, SYNC_FILE_RANGE_WRITE);
		atomic_fetch_add(&writing->bytes, len);
	}
	return 0;
}

static int work(void *ctx, struct err *err)
{
	struct worker w = {.writing = ctx, .readers.store = ((struct writing *)ctx)->core->store};
	int result;

	w.buf = malloc(CORE_PIECE_PAGES * STORE_PAGE_SIZE);
	result = w.buf ? write_pieces(&w, err) : err_set(err, ERR_SYSTEM, "out of memory");
	readers_close(&w.readers);
	free(w.buf);
	if (result < 0)
		w.writing->failed = true;
	return result;
}

static int write_pages(struct writing *writing, struct err *err)
{
	size_t n = parallel_cpus();

	return parallel_run(n > MAX_WORKERS ? MAX_WORKERS : n, work, writing, err);
}

int core_write(struct core *core, int fd, const uint8_t *notes, size_t notes_len, struct err *err)
{
	struct writing writing = {.core = core, .fd = fd};

	if (write_front(&writing, notes, notes_len, err) < 0 || write_pages(&writing, err) < 0)
		return -1;
	if (fsync(fd) < 0)
		return err_sys(err, "writing a core file");
	core->result.bytes = writing.bytes;
	core->result.length = writing.data + core->length;
	return 0;
}

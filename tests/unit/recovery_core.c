/*
 * Core files: what stands where in them, at sizes that no process can be made to have here.
 */
#include "unit.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpointer/tracee/arch.h"
#include "recovery/core.h"
#include "store_fixture.h"

#define BASE 0x400000ull /* where memory begins */

struct fixture {
	const char *dir;
	char path[PATH_MAX];
	struct store *store;
	Snap__Snapshot *model;
	struct image image;
};

static Snap__Region *add_region(Snap__Process *p, uint64_t start, uint64_t end)
{
	Snap__Region *r = snap_append(&p->regions, &p->n_regions, Snap__Region, SNAP__REGION__INIT);

	r->start = start;
	r->end = end;
	r->file = -1;
	r->prot = PROT_READ | PROT_WRITE;
	return r;
}

static void set_ids(size_t *n, uint32_t **ids)
{
	*n = 4;
	*ids = calloc(4, sizeof(**ids));
	assert_non_null(*ids);
}

static void complete_process(Snap__Process *p)
{
	static const struct arch_regs regs = {.raw = {.rip = 0x1234, .rsp = 0x5678}};
	Snap__Thread *t = snap_append(&p->threads, &p->n_threads, Snap__Thread, SNAP__THREAD__INIT);

	t->tid = p->pid;
	assert_int_equal(snap_set_bytes(&t->registers, &regs, sizeof(regs)), 0);
	p->exe_file = -1;
	p->memory = malloc(sizeof(*p->memory));
	snap__memory__init(p->memory);
	p->credentials = malloc(sizeof(*p->credentials));
	snap__credentials__init(p->credentials);
	set_ids(&p->credentials->n_uid, &p->credentials->uid);
	set_ids(&p->credentials->n_gid, &p->credentials->gid);
	for (int i = 0; i < 64; i++)
		snap_append(&p->actions, &p->n_actions, Snap__SigAction, SNAP__SIG_ACTION__INIT);
}

/* A process with the image's pages from BASE on, and no region yet. */
static struct fixture *set_up(uint64_t pages)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct snapshot_info info;
	struct err err;

	f->dir = fixture_dir();
	snprintf(f->path, sizeof(f->path), "%s.core", f->dir);
	f->store = fixture_open(f->dir, "job");
	f->image = image_new(pages, 7);
	info = image_save(f->store, "job", 0, &f->image, NULL, BASE / PAGE);
	ok(store_snapshot_load(f->store, "job", info.seq, NULL, &f->model, &err));
	f->model->host = malloc(sizeof(*f->model->host));
	snap__host__init(f->model->host);
	f->model->clocks = malloc(sizeof(*f->model->clocks));
	snap__clocks__init(f->model->clocks);
	f->model->capsule = malloc(sizeof(*f->model->capsule));
	snap__capsule__init(f->model->capsule);
	f->model->capsule->leader = 2;
	complete_process(f->model->processes[0]);
	return f;
}

static void tear_down(struct fixture *f)
{
	unlink(f->path);
	snap__snapshot__free_unpacked(f->model, NULL);
	image_free(&f->image);
	store_close(f->store);
	fixture_remove(f->dir);
	free(f);
}

struct mapped {
	const uint8_t *bytes;
	size_t len;
	const Elf64_Ehdr *head;
	const Elf64_Phdr *program;
};

static struct mapped open_core(const struct fixture *f)
{
	struct mapped m;
	struct stat st;
	int fd = open(f->path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	m.len = (size_t)st.st_size;
	m.bytes = mmap(NULL, m.len, PROT_READ, MAP_PRIVATE, fd, 0);
	assert_ptr_not_equal(m.bytes, MAP_FAILED);
	close(fd);
	m.head = (const void *)m.bytes;
	assert_memory_equal(m.head->e_ident, ELFMAG, SELFMAG);
	assert_int_equal(m.head->e_type, ET_CORE);
	m.program = (const void *)(m.bytes + m.head->e_phoff);
	return m;
}

static void close_core(struct mapped *m)
{
	munmap((void *)(uintptr_t)m->bytes, m->len);
}

/* The segments [1, n) show every page of the image at its address, zeroes elsewhere. */
static void check_memory(const struct fixture *f, const struct mapped *m, uint64_t n)
{
	uint8_t expected[PAGE];

	for (uint64_t i = 1; i < n; i++) {
		const Elf64_Phdr *p = &m->program[i];

		assert_int_equal(p->p_type, PT_LOAD);
		assert_int_equal(p->p_offset % PAGE, p->p_vaddr % PAGE);
		assert_true(p->p_offset + p->p_filesz <= m->len);
		for (uint64_t at = 0; at < p->p_filesz; at += PAGE) {
			uint64_t page = (p->p_vaddr + at - BASE) / PAGE;

			fixture_page(expected, page < f->image.n ? f->image.seed[page] : 0);
			assert_memory_equal(m->bytes + p->p_offset + at, expected, PAGE);
		}
	}
}

static void test_memory(void **state)
{
	struct fixture *f = set_up(1500);
	struct core_result result;
	struct mapped m;
	struct err err;

	add_region(f->model->processes[0], BASE, BASE + 1500 * PAGE);
	add_region(f->model->processes[0], BASE + 2000 * PAGE, BASE + 2004 * PAGE);
	ok(core_export(f->store, f->model, 2, f->path, &result, &err));
	assert_int_equal(result.regions, 2);
	assert_int_equal(result.threads, 1);
	m = open_core(f);
	assert_int_equal(m.head->e_phnum, 3);
	assert_int_equal(m.program[1].p_filesz, 1500 * PAGE);
	assert_int_equal(m.program[2].p_filesz, 4 * PAGE);
	check_memory(f, &m, 3);
	close_core(&m);
	tear_down(f);
}

/* A reserve of 64 TiB with pages at both ends takes little of the file's length, and no memory is lost. */
static void test_great_holes(void **state)
{
	struct fixture *f = set_up(3);
	Snap__Process *p = f->model->processes[0];
	struct core_result result;
	struct mapped m;
	struct err err;
	uint64_t sum = 0;

	add_region(p, BASE, BASE + (64ull << 40));
	add_region(p, BASE + (65ull << 40), BASE + (65ull << 40) + 4 * PAGE)->prot = 0;
	ok(core_export(f->store, f->model, 2, f->path, &result, &err));
	assert_true(result.length < 16 * PAGE);
	m = open_core(f);
	assert_int_equal(m.head->e_phnum, 4);
	check_memory(f, &m, 4);
	for (unsigned i = 1; i < 4; i++)
		sum += m.program[i].p_memsz;
	assert_int_equal(sum, (64ull << 40) + 4 * PAGE);
	assert_int_equal(m.program[2].p_filesz, 0);
	assert_int_equal(m.program[3].p_filesz, 0);
	close_core(&m);
	tear_down(f);
}

/* elf(5), PN_XNUM */
static void test_many_regions(void **state)
{
	const uint64_t n = 70000;
	struct fixture *f = set_up(200);
	struct core_result result;
	const Elf64_Shdr *section;
	struct mapped m;
	struct err err;

	for (uint64_t i = 0; i < n; i++)
		add_region(f->model->processes[0], BASE + 2 * i * PAGE, BASE + (2 * i + 1) * PAGE);
	ok(core_export(f->store, f->model, 2, f->path, &result, &err));
	m = open_core(f);
	assert_int_equal(m.head->e_phnum, PN_XNUM);
	assert_int_equal(m.head->e_shnum, 1);
	section = (const void *)(m.bytes + m.head->e_shoff);
	assert_int_equal(section->sh_info, n + 1);
	check_memory(f, &m, n + 1);
	close_core(&m);
	tear_down(f);
}

/* What cannot be had of a mapped file is not shown as zeroes; what the process has written there is. */
static void test_missing_file(void **state)
{
	struct fixture *f = set_up(2);
	Snap__Region *r = add_region(f->model->processes[0], BASE - PAGE, BASE + 4 * PAGE);
	Snap__File *file = snap_append(&f->model->files, &f->model->n_files, Snap__File,
				       SNAP__FILE__INIT);
	struct core_result result;
	struct mapped m;
	struct err err;

	assert_int_equal(snap_set_string(&file->path, "/no/such/file"), 0);
	file->size = 5 * PAGE;
	r->kind = SNAP__REGION__KIND__FILE_PRIVATE;
	r->file = 0;
	ok(core_export(f->store, f->model, 2, f->path, &result, &err));
	assert_int_equal(result.missing, 1);
	assert_string_equal(result.missing_path, "/no/such/file");
	m = open_core(f);
	assert_int_equal(m.head->e_phnum, 4);
	assert_int_equal(m.program[1].p_filesz, 0);
	assert_int_equal(m.program[1].p_memsz, PAGE);
	assert_int_equal(m.program[2].p_filesz, 2 * PAGE);
	assert_int_equal(m.program[3].p_filesz, 0);
	check_memory(f, &m, 4);
	close_core(&m);
	tear_down(f);
}

static void test_refusals(void **state)
{
	struct fixture *f = set_up(3);
	struct core_result result;
	struct err err;

	add_region(f->model->processes[0], BASE, BASE + 3 * PAGE);
	assert_fails(core_export(f->store, f->model, 3, f->path, &result, &err), ERR_NOT_FOUND, &err);
	assert_fails(core_export(f->store, f->model, 2, f->dir, &result, &err), ERR_UNSUPPORTED, &err);
	assert_fails(core_export(f->store, f->model, 2, "/no/such/dir/core", &result, &err),
		     ERR_NOT_FOUND, &err);
	f->model->processes[0]->regions[0]->end += 1;
	assert_fails(core_export(f->store, f->model, 2, f->path, &result, &err), ERR_CORRUPT, &err);
	f->model->processes[0]->regions[0]->end -= 1;
	f->model->processes[0]->pages_root = 987654; /* no such node */
	assert_fails(core_export(f->store, f->model, 2, f->path, &result, &err), ERR_CORRUPT, &err);
	assert_int_equal(access(f->path, F_OK), -1);
	tear_down(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory),	     cmocka_unit_test(test_great_holes),
		cmocka_unit_test(test_many_regions), cmocka_unit_test(test_missing_file),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests_name("core files", tests, NULL, NULL);
}

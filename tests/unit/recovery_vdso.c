/*
 * Address arithmetic of recovery, and redirecting a vdso image: this kernel's own stands for both.
 */
#include "unit.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "recovery/rebuild.h"

static void test_holes(void **state)
{
	static const struct range taken[] = {
		{0x1000, 0x9000}, {0x2000, 0x3000}, {0xa000, 0xb000}, {0x20000, 0x21000}};

	assert_int_equal(find_hole(taken, 4, 0x1000, 0x1000), 0x9000);
	assert_int_equal(find_hole(taken, 4, 0x2000, 0x1000), 0xb000);
	assert_int_equal(find_hole(taken, 4, 0x1000, 0x500000), 0x500000);
	assert_int_equal(find_hole(taken, 4, 0x15000, 0xb000), 0xb000);
	assert_int_equal(find_hole(taken, 4, 0x15001, 0xb000), 0x21000);
	assert_int_equal(find_hole(taken, 0, 0x1000, 0x7000), 0x7000);
}

struct vdso {
	const char *image;
	size_t len;
};

static struct vdso own_vdso(void)
{
	struct vdso vdso = {(const char *)getauxval(AT_SYSINFO_EHDR), 0};
	struct proc_map *maps;
	struct err err;
	size_t n;

	assert_non_null(vdso.image);
	assert_int_equal(proc_read_maps(getpid(), false, &maps, &n, &err), 0);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(maps[i].name, "[vdso]") == 0)
			vdso.len = (size_t)(maps[i].end - maps[i].start);
	}
	proc_maps_free(maps, n);
	assert_true(vdso.len > 0);
	return vdso;
}

static char *copy(const struct vdso *vdso)
{
	char *bytes = malloc(vdso->len);

	assert_non_null(bytes);
	return memcpy(bytes, vdso->image, vdso->len);
}

static bool is_later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

/* Calls through a redirected copy must reach the real vdso, which alone has its data beside it. */
static void test_redirected_copy_tells_the_time(void **state)
{
	struct vdso vdso = own_vdso();
	char *saved = copy(&vdso);
	char *out =
		mmap(NULL, vdso.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *handle = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	int (*gettime)(clockid_t, struct timespec *);
	struct timespec before, now, after;
	uint8_t jump[NATIVE_JUMP_SIZE];
	struct err err;
	const char *real;
	size_t n;

	assert_ptr_not_equal(out, MAP_FAILED);
	assert_non_null(handle);
	real = dlsym(handle, "__vdso_clock_gettime");
	assert_non_null(real);
	assert_int_equal(vdso_redirect(saved, vdso.len, saved, vdso.len, (uint64_t)vdso.image, out,
				       &n, &err),
			 0);
	assert_true(n >= 4);
	native_jump(jump, (uint64_t)real);
	assert_memory_equal(out + (real - vdso.image), jump, sizeof(jump));
	assert_int_equal(mprotect(out, vdso.len, PROT_READ | PROT_EXEC), 0);
	gettime = (int (*)(clockid_t, struct timespec *))(void *)(out + (real - vdso.image));
	clock_gettime(CLOCK_MONOTONIC, &before);
	assert_int_equal(gettime(CLOCK_MONOTONIC, &now), 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	assert_true(!is_later(&before, &now) && !is_later(&now, &after));
	dlclose(handle);
	munmap(out, vdso.len);
	free(saved);
}

/* A function that this kernel's vdso lacks becomes the bare system call. */
static void test_missing_function_becomes_a_call(void **state)
{
	int (*time_of)(clockid_t, struct timespec *);
	struct timespec now = {0};
	uint8_t *code =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(code, MAP_FAILED);
	native_call(code, SYS_clock_gettime);
	native_call(code + 64, -1);
	assert_int_equal(mprotect(code, 4096, PROT_READ | PROT_EXEC), 0);
	time_of = (int (*)(clockid_t, struct timespec *))(void *)code;
	assert_int_equal(time_of(CLOCK_MONOTONIC, &now), 0);
	assert_true(now.tv_sec > 0 || now.tv_nsec > 0);
	assert_int_equal(((int (*)(void))(void *)(code + 64))(), -ENOSYS);
	munmap(code, 4096);
}

/* Whatever the saved image holds, nothing outside of it is read or written (ASan sees to that). */
static void test_damaged_images(void **state)
{
	struct vdso vdso = own_vdso();
	uint64_t random = 1;
	struct err err;

	for (int round = 0; round < 20000; round++) {
		size_t len = round % 3 ? vdso.len : random % vdso.len, n;
		char *saved = copy(&vdso), *out = malloc(len + 1);

		assert_non_null(out);
		for (int flips = 0; flips < 8; flips++) {
			random = random * 6364136223846793005u + 1442695040888963407u;
			saved[(random >> 16) % (round % 2 ? 512 : vdso.len)] ^=
				(char)(random >> 56);
		}
		saved = realloc(saved, len + 1);
		assert_non_null(saved);
		if (vdso_redirect(saved, len, vdso.image, vdso.len, 0x1000, out, &n, &err) < 0)
			assert_true(err.msg[0] != '\0');
		free(saved);
		free(out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_holes),
		cmocka_unit_test(test_redirected_copy_tells_the_time),
		cmocka_unit_test(test_missing_function_becomes_a_call),
		cmocka_unit_test(test_damaged_images),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

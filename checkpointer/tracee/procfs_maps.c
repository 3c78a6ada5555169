#include "checkpointer/tracee/procfs.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "checkpointer/tracee/procfs_text.h"
#include "store/base/cleanup.h"

static const char deleted_suffix[] = " (deleted)";
#define DELETED_LEN (sizeof(deleted_suffix) - 1)

struct map_list {
	struct proc_map *maps;
	size_t n, room;
};

/* maps and smaps escape the newline and nothing else (fs/proc/task_mmu.c: seq_path(m, file, "\n")),
 * so only \012 is undone: any other backslash is part of the name. */
static char *copy_name(const char *from, size_t len)
{
	char *name = malloc(len + 1), *to = name;
	const char *end = from + len;

	if (!name)
		return NULL;
	while (from < end) {
		if (*from == '\\' && end - from >= 4 && memcmp(from, "\\012", 4) == 0) {
			*to++ = '\n';
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = '\0';
	return name;
}

static int set_name(struct proc_map *map, struct text *line, struct err *err)
{
	size_t len;

	text_skip_blanks(line);
	len = (size_t)(line->end - line->p);
	if (len > DELETED_LEN &&
	    memcmp(line->end - DELETED_LEN, deleted_suffix, DELETED_LEN) == 0) {
		map->deleted = true;
		len -= DELETED_LEN;
	}
	map->name = copy_name(line->p, len);
	return map->name ? 0 : err_sys(err, "maps");
}

static bool take_perms(struct text *t, struct proc_map *map)
{
	const char *p = t->p;

	if (t->end - p < 5 || p[4] != ' ' || (p[0] != 'r' && p[0] != '-') ||
	    (p[1] != 'w' && p[1] != '-') || (p[2] != 'x' && p[2] != '-') ||
	    (p[3] != 'p' && p[3] != 's'))
		return false;
	map->prot = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0) |
		    (p[2] == 'x' ? PROT_EXEC : 0);
	map->shared = p[3] == 's';
	t->p += 4;
	return true;
}

/* "start-end perms offset major:minor inode" */
static bool take_header(struct text *t, struct proc_map *map)
{
	uint64_t major, minor;

	if (!text_number(t, 16, &map->start) || !text_char(t, '-') ||
	    !text_number(t, 16, &map->end) || !text_char(t, ' ') || !take_perms(t, map) ||
	    !text_field(t, 16, &map->offset) || !text_field(t, 16, &major) || !text_char(t, ':') ||
	    !text_number(t, 16, &minor) || !text_field(t, 10, &map->inode))
		return false;
	if (t->p != t->end && *t->p != ' ')
		return false;
	map->dev_major = (uint32_t)major;
	map->dev_minor = (uint32_t)minor;
	return major <= UINT32_MAX && minor <= UINT32_MAX && map->start < map->end;
}

static int add_map(struct map_list *list, struct text *line, const char *what, struct err *err)
{
	const char *start = line->p;
	struct proc_map map = {0};

	if (list->n == list->room) {
		size_t room = list->room ? list->room * 2 : 64;
		struct proc_map *more = reallocarray(list->maps, room, sizeof(*more));

		if (!more)
			return err_sys(err, "%s", what);
		list->maps = more;
		list->room = room;
	}
	/* "The mapped addresses never go backwards" (Documentation/filesystems/proc.rst). */
	if (!take_header(line, &map) || (list->n && map.start < list->maps[list->n - 1].end))
		return text_corrupt(err, what, start);
	if (set_name(&map, line, err) < 0)
		return -1;
	list->maps[list->n++] = map;
	return 0;
}

void proc_maps_free(struct proc_map *maps, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(maps[i].name);
	free(maps);
}

int proc_parse_maps(const char *text, struct proc_map **ret, size_t *ret_n, struct err *err)
{
	struct map_list list = {0};
	struct text line;

	while (text_next_line(&text, &line))
		if (add_map(&list, &line, "maps", err) < 0)
			goto fail;
	*ret = list.maps;
	*ret_n = list.n;
	return 0;
fail:
	proc_maps_free(list.maps, list.n);
	return -1;
}

#define CODE(a, b) ((unsigned)(unsigned char)(a) << 8 | (unsigned char)(b))

static uint64_t vm_flag(unsigned code)
{
	switch (code) {
	case CODE('g', 'd'):
		return VMF_GROWSDOWN;
	case CODE('n', 'r'):
		return VMF_NORESERVE;
	case CODE('l', 'o'):
		return VMF_LOCKED;
	case CODE('l', 'f'):
		return VMF_LOCKONFAULT;
	case CODE('h', 't'):
		return VMF_HUGETLB;
	case CODE('d', 'c'):
		return VMF_DONTFORK;
	case CODE('d', 'd'):
		return VMF_DONTDUMP;
	case CODE('w', 'f'):
		return VMF_WIPEONFORK;
	case CODE('h', 'g'):
		return VMF_HUGEPAGE;
	case CODE('n', 'h'):
		return VMF_NOHUGEPAGE;
	case CODE('m', 'g'):
		return VMF_MERGEABLE;
	case CODE('s', 'r'):
		return VMF_SEQUENTIAL;
	case CODE('r', 'r'):
		return VMF_RANDOM;
	case CODE('u', 'w'):
		return VMF_UFFD_WP;
	case CODE('u', 'm'):
		return VMF_UFFD_MISSING;
	case CODE('u', 'i'):
		return VMF_UFFD_MINOR;
	case CODE('s', 'l'):
		return VMF_SEALED;
	case CODE('d', 'p'):
		return VMF_DROPPABLE;
	case CODE('i', 'o'):
		return VMF_IO;
	case CODE('p', 'f'):
		return VMF_PFNMAP;
	case CODE('a', 'c'):
		return VMF_ACCOUNT;
	case CODE('s', 's'):
		return VMF_SHADOW_STACK;
	case CODE('s', 'd'):
		return VMF_SOFTDIRTY;
	case CODE('m', 'w'):
		return VMF_MAYWRITE;
	default:
		return 0;
	}
}

static void take_vm_flags(struct text *t, struct proc_map *map)
{
	for (;;) {
		text_skip_blanks(t);
		if (t->end - t->p < 2)
			return;
		if (t->end - t->p == 2 || t->p[2] == ' ')
			map->vm_flags |= vm_flag(CODE(t->p[0], t->p[1]));
		while (t->p < t->end && *t->p != ' ')
			t->p++;
	}
}

static bool take_kb(struct text *t, uint64_t *ret_bytes)
{
	uint64_t kb;

	if (!text_field(t, 10, &kb) || kb > UINT64_MAX / 1024)
		return false;
	*ret_bytes = kb * 1024;
	return true;
}

/* A line of a block of smaps after its first. Those not needed here, and those of kernels to come,
 * are passed over. */
static bool take_detail(struct text *t, struct proc_map *map)
{
	uint64_t value;

	switch (*t->p) {
	case 'K':
		if (!text_prefix(t, "KernelPageSize:"))
			return true;
		if (!take_kb(t, &value) || value > UINT32_MAX)
			return false;
		map->kernel_page_size = (uint32_t)value;
		return true;
	case 'P':
		if (!text_prefix(t, "ProtectionKey:"))
			return true;
		if (!text_field(t, 10, &value) || value > UINT32_MAX)
			return false;
		map->protection_key = (uint32_t)value;
		return true;
	case 'R':
		return !text_prefix(t, "Rss:") || take_kb(t, &map->rss);
	case 'S':
		return !text_prefix(t, "Swap:") || take_kb(t, &map->swap);
	case 'V':
		if (text_prefix(t, "VmFlags:"))
			take_vm_flags(t, map);
		return true;
	default:
		return true;
	}
}

/* The first line of a block starts with a lower-case hexadecimal number and '-', the others with a
 * name and ':'. */
static bool is_header(struct text line)
{
	uint64_t start;

	return text_digit(*line.p) < 16 && !(*line.p >= 'A' && *line.p <= 'F') &&
	       text_number(&line, 16, &start) && text_char(&line, '-');
}

int proc_parse_smaps(const char *text, struct proc_map **ret, size_t *ret_n, struct err *err)
{
	struct map_list list = {0};
	struct text line;

	while (text_next_line(&text, &line)) {
		const char *start = line.p;

		if (is_header(line)) {
			if (add_map(&list, &line, "smaps", err) < 0)
				goto fail;
		} else if (list.n == 0 || !take_detail(&line, &list.maps[list.n - 1])) {
			text_corrupt(err, "smaps", start);
			goto fail;
		}
	}
	*ret = list.maps;
	*ret_n = list.n;
	return 0;
fail:
	proc_maps_free(list.maps, list.n);
	return -1;
}

/* A file may really be called "x (deleted)". It is, where that path leads to the mapped inode; the
 * device is not compared, btrfs and overlayfs show another one in maps than stat(2) gives. */
static int recheck_deleted(pid_t pid, struct proc_map *map, struct err *err)
{
	cleanup_free char *path = NULL;
	struct stat st;
	char *name;
	int prefix;

	if (map->name[0] != '/' || map->inode == 0)
		return 0;
	if (asprintf(&path, "/proc/%d/root%n%s%s", (int)pid, &prefix, map->name, deleted_suffix) <
	    0)
		return err_sys(err, "maps");
	if (lstat(path, &st) < 0 || st.st_ino != map->inode || st.st_nlink == 0)
		return 0;
	if (!(name = strdup(path + prefix)))
		return err_sys(err, "maps");
	free(map->name);
	map->name = name;
	map->deleted = false;
	return 0;
}

int proc_read_maps(pid_t pid, bool smaps, struct proc_map **ret, size_t *ret_n, struct err *err)
{
	cleanup_free char *text = NULL;
	struct proc_map *maps;
	size_t n;

	if (text_read(&text, err, "/proc/%d/%s", (int)pid, smaps ? "smaps" : "maps") < 0)
		return -1;
	if ((smaps ? proc_parse_smaps : proc_parse_maps)(text, &maps, &n, err) < 0)
		return err_wrap(err, "process %d", (int)pid);
	for (size_t i = 0; i < n; i++) {
		if (maps[i].deleted && recheck_deleted(pid, &maps[i], err) < 0) {
			proc_maps_free(maps, n);
			return -1;
		}
	}
	*ret = maps;
	*ret_n = n;
	return 0;
}

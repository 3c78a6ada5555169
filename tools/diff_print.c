/*
 * Differences as text and as JSON.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "store/base/units.h"
#include "tools/diff.h"
#include "tools/report.h"

static const char *const kinds[] = {
	[DIFF_CHANGED] = "changed", [DIFF_NEW] = "new", [DIFF_GONE] = "gone"};

static uint64_t sum(const struct diff_pages *p)
{
	return p->changed + p->came + p->went;
}

static const char *prot_text(uint32_t prot, char buf[4])
{
	buf[0] = prot & PROT_READ ? 'r' : '-';
	buf[1] = prot & PROT_WRITE ? 'w' : '-';
	buf[2] = prot & PROT_EXEC ? 'x' : '-';
	buf[3] = '\0';
	return buf;
}

/* ---- text ---------------------------------------------------------------------------------- */

static void print_pages(const struct diff_pages *p)
{
	char size[32];

	if (!sum(p))
		return;
	printf(" %s:", format_size(sum(p) * STORE_PAGE_SIZE, size, sizeof(size)));
	if (p->changed)
		printf(" %" PRIu64 " pages changed", p->changed);
	if (p->came)
		printf(" %" PRIu64 " pages new", p->came);
	if (p->went)
		printf(" %" PRIu64 " pages gone", p->went);
}

static void print_region(const struct diff_region *d)
{
	const Snap__Region *r = d->b ? d->b : d->a;
	char prot[4], old[4];

	printf("  %-8s %#" PRIx64 "-%#" PRIx64 " %s %s", kinds[d->kind], r->start, r->end,
	       prot_text(r->prot, prot), d->name);
	print_pages(&d->pages);
	if (d->moved)
		printf(" (was %#" PRIx64 "-%#" PRIx64 ")", d->a->start, d->a->end);
	if (d->protected)
		printf(" (was %s)", prot_text(d->a->prot, old));
	putchar('\n');
}

static void print_fd(const struct diff_item *d)
{
	printf("  %-8s fd %d: ", kinds[d->kind], d->number);
	if (d->kind != DIFF_CHANGED)
		printf("%s\n", d->a ? d->a : d->b);
	else if (strcmp(d->a, d->b) == 0)
		printf("%s, at %" PRIu64 " (was at %" PRIu64 ")\n", d->b, d->offset_b, d->offset_a);
	else
		printf("%s at %" PRIu64 " (was %s at %" PRIu64 ")\n", d->b, d->offset_b, d->a,
		       d->offset_a);
}

static void print_process(const struct diff_process *p)
{
	char size[32];

	printf("process %d %s: %s; %zu of %zu regions differ, %s in them\n", p->pid, p->name,
	       kinds[p->kind], p->n_regions, p->regions_compared,
	       format_size(sum(&p->pages) * STORE_PAGE_SIZE, size, sizeof(size)));
	for (size_t i = 0; i < p->n_regions; i++)
		print_region(&p->regions[i]);
	for (size_t i = 0; i < p->n_threads; i++)
		printf("  %-8s thread %d%s\n", kinds[p->threads[i].kind], p->threads[i].number,
		       p->threads[i].kind == DIFF_CHANGED ? ": its registers" : "");
	for (size_t i = 0; i < p->n_fds; i++)
		print_fd(&p->fds[i]);
}

static void print_file(const struct diff_file *f)
{
	char a[32], b[32];

	printf("  %-8s %s", kinds[f->kind], f->path);
	if (f->kind == DIFF_CHANGED && f->size_a != f->size_b)
		printf(", %s (was %s)", format_size(f->size_b, b, sizeof(b)),
		       format_size(f->size_a, a, sizeof(a)));
	else
		printf(", %s",
		       format_size(f->kind == DIFF_GONE ? f->size_a : f->size_b, b, sizeof(b)));
	print_pages(&f->pages);
	putchar('\n');
}

void diff_print(const struct diff *diff)
{
	for (size_t i = 0; i < diff->n_processes; i++)
		print_process(&diff->processes[i]);
	if (diff->n_processes < diff->processes_compared)
		printf("%zu processes are the same in both\n",
		       diff->processes_compared - diff->n_processes);
	if (diff->n_files)
		printf("files\n");
	for (size_t i = 0; i < diff->n_files; i++)
		print_file(&diff->files[i]);
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static void set_pages(json_t *o, const struct diff_pages *p)
{
	json_object_set_new(o, "pages_changed", json_integer((json_int_t)p->changed));
	json_object_set_new(o, "pages_new", json_integer((json_int_t)p->came));
	json_object_set_new(o, "pages_gone", json_integer((json_int_t)p->went));
}

static json_t *region_side(const Snap__Region *r)
{
	char prot[4];

	return r ? json_pack("{sIsIss}", "start", (json_int_t)r->start, "end", (json_int_t)r->end,
			     "protection", prot_text(r->prot, prot))
		 : json_null();
}

static json_t *region_json(const struct diff_region *d)
{
	json_t *o = json_pack("{ss}", "change", kinds[d->kind]);

	json_object_set_new(o, "name", report_text(d->name));
	json_object_set_new(o, "a", region_side(d->a));
	json_object_set_new(o, "b", region_side(d->b));
	set_pages(o, &d->pages);
	return o;
}

static json_t *side(const char *text, uint64_t offset)
{
	json_t *o;

	if (!text)
		return json_null();
	o = json_object();
	json_object_set_new(o, "object", report_text(text));
	json_object_set_new(o, "offset", json_integer((json_int_t)offset));
	return o;
}

static json_t *items_json(const struct diff_item *list, size_t n, const char *number, bool sides)
{
	json_t *all = json_array();

	for (size_t i = 0; i < n; i++) {
		json_t *o = json_pack("{ss}", "change", kinds[list[i].kind]);

		json_object_set_new(o, number, json_integer(list[i].number));
		if (sides) {
			json_object_set_new(o, "a", side(list[i].a, list[i].offset_a));
			json_object_set_new(o, "b", side(list[i].b, list[i].offset_b));
		}
		json_array_append_new(all, o);
	}
	return all;
}

static json_t *process_json(const struct diff_process *p)
{
	json_t *o = json_pack("{sisssI}", "pid", p->pid, "change", kinds[p->kind],
			      "regions_compared", (json_int_t)p->regions_compared);
	json_t *regions = json_array();

	json_object_set_new(o, "name", report_text(p->name));
	set_pages(o, &p->pages);
	for (size_t i = 0; i < p->n_regions; i++)
		json_array_append_new(regions, region_json(&p->regions[i]));
	json_object_set_new(o, "regions", regions);
	json_object_set_new(o, "threads", items_json(p->threads, p->n_threads, "tid", false));
	json_object_set_new(o, "descriptors", items_json(p->fds, p->n_fds, "fd", true));
	return o;
}

static json_t *file_json(const struct diff_file *f)
{
	json_t *o = json_pack("{ss}", "change", kinds[f->kind]);

	json_object_set_new(o, "path", report_text(f->path));
	json_object_set_new(o, "size_a", json_integer((json_int_t)f->size_a));
	json_object_set_new(o, "size_b", json_integer((json_int_t)f->size_b));
	set_pages(o, &f->pages);
	return o;
}

json_t *diff_json(const struct diff *diff)
{
	json_t *processes = json_array(), *files = json_array();

	for (size_t i = 0; i < diff->n_processes; i++)
		json_array_append_new(processes, process_json(&diff->processes[i]));
	for (size_t i = 0; i < diff->n_files; i++)
		json_array_append_new(files, file_json(&diff->files[i]));
	return json_pack("{sIsoso}", "processes_compared", (json_int_t)diff->processes_compared,
			 "processes", processes, "files", files);
}

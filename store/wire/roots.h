/*
 * roots.h: the page tables of a model, told by their places in it instead of by a store's ids.
 *
 * On the wire a model is portable: where it names the root of a page table stands the table's number in
 * the stream, counted from 1; 0: an empty table.
 */
#ifndef PAWL_STORE_WIRE_ROOTS_H
#define PAWL_STORE_WIRE_ROOTS_H

#include "store/store.h"

struct wire_roots {       /* starts as {0} */
	uint64_t **field; /* into the model, in the order of snap_each_root */
	size_t n;
};

int wire_roots_find(struct wire_roots *ret, Snap__Snapshot *model, struct err *err);
void wire_roots_clear(struct wire_roots *roots);

struct wire_tables { /* starts as {0} */
	uint64_t *root;  /* of table i + 1 */
	size_t *place;   /* the first field that names it */
	size_t n;
};

/* Replaces roots by numbers of tables; equal roots are one table. */
int wire_tables_number(struct wire_tables *ret, const struct wire_roots *roots, struct err *err);
void wire_tables_clear(struct wire_tables *tables);

/* The field of the base (1 + its index) whose table is most like that of the field `place`: of the same
 * process, file or directory. 0: none. Any choice is right, a bad one costs. */
size_t wire_base_place(const Snap__Snapshot *model, const uint64_t *field,
		       const Snap__Snapshot *base, const struct wire_roots *base_roots);

/* XXH3-64 of the model with all roots 0: whether two stores mean the same by a snapshot. Never 0. */
int wire_model_digest(const Snap__Snapshot *model, uint64_t *ret, struct err *err);

#endif

/* Stored directory trees: records of objects, names, extended attributes, and that they make a
 * tree. */
#include "fuzz.h"

#include "store/bytes.h"
#include "store/tree.h"

#define OBJECTS_MOST 64u

/* u8 objects, their records, then for each directory u16 length and its names; the rest is a set of
 * extended attributes. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t room)
{
	static const char names[] = "\1\0\0\0\1a\2\0\0\0\1b\3\0\0\0\3sub",
			  inner[] = "\1\0\0\0\4link";
	struct tree_object o = {.kind = TREE_DIRECTORY, .mode = 0755, .content = {1, 1}};
	uint8_t *at = buf + 1, *set = NULL;
	uint32_t len = 0;

	if (i > 0 || room < 2048)
		return 0;
	buf[0] = 4;
	o.size = sizeof(names) - 1;
	tree_record_encode(&o, at);
	o.size = sizeof(inner) - 1;
	tree_record_encode(&o, at + 3 * TREE_RECORD);
	o.kind = TREE_REGULAR;
	tree_record_encode(&o, at + TREE_RECORD);
	o.kind = TREE_SYMLINK;
	tree_record_encode(&o, at + 2 * TREE_RECORD);
	at += 4 * TREE_RECORD;
	put_le16(at, sizeof(names) - 1);
	memcpy(at + 2, names, sizeof(names) - 1);
	at += 2 + sizeof(names) - 1;
	put_le16(at, sizeof(inner) - 1);
	memcpy(at + 2, inner, sizeof(inner) - 1);
	at += 2 + sizeof(inner) - 1;
	if (tree_xattr_append(&set, &len, "user.note", "value", 5) < 0)
		abort();
	memcpy(at, set, len);
	free(set);
	return (size_t)(at + len - buf);
}

static const uint8_t *decode_records(struct tree *tree, const uint8_t *at, const uint8_t *end,
				     unsigned n)
{
	struct err err = {0};

	while (n-- > 0 && end - at >= (ptrdiff_t)TREE_RECORD) {
		uint8_t again[TREE_RECORD];
		struct tree_object o, same;
		uint32_t id;

		if (tree_record_decode(at, &o, &err) < 0) {
			promise(err.kind == ERR_CORRUPT);
			return NULL;
		}
		tree_record_encode(&o, again);
		promise(tree_record_decode(again, &same, &err) == 0);
		promise(same.kind == o.kind && same.size == o.size && same.mtime == o.mtime);
		id = tree_add(tree);
		if (id == TREE_NOWHERE)
			abort();
		tree->objects[id] = o;
		tree->objects[id].slot = id;
		tree->objects[id].xattrs_len = 0;
		at += TREE_RECORD;
	}
	return at;
}

static void check_listing(const struct tree *tree, const struct tree_object *dir,
			  const uint8_t *bytes, size_t len)
{
	struct err err = {0};
	uint8_t *again;
	size_t again_len;

	promise(tree_listing_encode(tree, dir, &again, &again_len, &err) == 0);
	promise(again_len == len && (len == 0 || memcmp(again, bytes, len) == 0));
	free(again);
	for (uint32_t i = 0; i < dir->n_entries; i++)
		promise(tree_find(dir, dir->entries[i].name) == &dir->entries[i]);
}

static const uint8_t *decode_listings(struct tree *tree, const uint8_t *at, const uint8_t *end)
{
	struct err err = {0};

	for (uint32_t i = 0; i < tree->n; i++) {
		struct tree_object *o = &tree->objects[i];
		size_t len;

		if (o->kind != TREE_DIRECTORY)
			continue;
		if (end - at < 2 || (len = get_le16(at)) > (size_t)(end - at - 2))
			return NULL;
		if (tree_listing_decode(at + 2, len, tree->n, o, &err) < 0) {
			promise(err.kind == ERR_CORRUPT && o->n_entries == 0);
			return NULL;
		}
		check_listing(tree, o, at + 2, len);
		at += 2 + len;
	}
	return at;
}

static void use(struct tree *tree)
{
	struct err err = {0};
	char path[4096];

	if (tree_check(tree, &err) < 0) {
		promise(err.kind == ERR_CORRUPT);
		return;
	}
	for (uint32_t i = 0; i < tree->n; i++)
		if (tree->objects[i].names && tree_path(tree, i, path, sizeof(path)) == 0 && i)
			promise(tree_lookup(tree, path) == i);
}

static void walk_attributes(const uint8_t *at, const uint8_t *end)
{
	uint32_t offset = 0, len = (uint32_t)(end - at);
	struct tree_xattr x;

	while (tree_xattr_next(at, len, &offset, &x) > 0)
		promise(offset <= len && strlen(x.name) <= TREE_NAME_MOST &&
			x.value + x.len <= end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *at = data + 1, *end = data + size;
	struct tree tree = {0};

	if (size == 0)
		return 0;
	at = decode_records(&tree, at, end, data[0] % OBJECTS_MOST);
	if (at)
		at = decode_listings(&tree, at, end);
	if (at) {
		use(&tree);
		walk_attributes(at, end);
	}
	tree_clear(&tree);
	return 0;
}

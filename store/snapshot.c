#include "store/snapshot.h"

#include <stdlib.h>
#include <string.h>

static int grow(void **array, size_t n, size_t element)
{
	void *more;

	/* Doubling at powers of two needs no capacity field beside protobuf-c's count. */
	if (n & (n - 1))
		return 0;
	more = reallocarray(*array, n ? n * 2 : 1, element);
	if (!more)
		return -1;
	*array = more;
	return 0;
}

void *snap_append_raw(void ***array, size_t *n, size_t size, const void *init)
{
	void *element = malloc(size);

	if (!element || grow((void **)array, *n, sizeof(void *)) < 0) {
		free(element);
		return NULL;
	}
	memcpy(element, init, size);
	(*array)[(*n)++] = element;
	return element;
}

int snap_set_string(char **field, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -1;
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = copy;
	return 0;
}

int snap_set_bytes(ProtobufCBinaryData *field, const void *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		return -1;
	if (len)
		memcpy(copy, data, len);
	free(field->data);
	field->data = copy;
	field->len = len;
	return 0;
}

int snap_append_bytes(ProtobufCBinaryData **array, size_t *n, const void *data, size_t len)
{
	ProtobufCBinaryData element = {0};

	if (snap_set_bytes(&element, data, len) < 0)
		return -1;
	if (grow((void **)array, *n, sizeof(element)) < 0) {
		free(element.data);
		return -1;
	}
	(*array)[(*n)++] = element;
	return 0;
}

int snap_each_root(Snap__Snapshot *model, snap_root_fn *fn, void *ctx, struct err *err)
{
	int rc = 0;
	size_t i;

	for (i = 0; rc == 0 && i < model->n_processes; i++)
		rc = fn(ctx, &model->processes[i]->pages_root, err);
	for (i = 0; rc == 0 && i < model->n_files; i++)
		rc = fn(ctx, &model->files[i]->content_root, err);
	for (i = 0; rc == 0 && i < model->n_trees; i++) {
		rc = fn(ctx, &model->trees[i]->objects_root, err);
		if (rc == 0)
			rc = fn(ctx, &model->trees[i]->contents_root, err);
	}
	return rc;
}

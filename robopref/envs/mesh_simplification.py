"""Fewer triangles for small pictures.

A robot's visual meshes have tens of thousands of triangles that fall below one pixel of an 84 x 84 frame, and on a
CPU nearly all of the rendering time goes into them. Vertices that share a grid cell become one (vertex clustering:
Rossignac and Borrel, "Multi-resolution 3D approximations for rendering complex scenes", 1993); triangles that
collapse are dropped.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray


def cluster_faces(vertices: NDArray[np.floating[Any]], faces: NDArray[np.int32], cell: float) -> NDArray[np.int32]:
    """Point every corner at one representative vertex of its grid cell.

    Args:
        vertices: [V, 3].
        faces: vertex indices of the triangles [F, 3].
        cell: edge of a grid cell, in the unit of the vertices.

    Returns:
        Faces [F, 3] over the same vertices. Triangles with two corners in one cell come out with equal corners; none
        of the corners has moved by more than the cell's diagonal, ``sqrt(3) * cell``.
    """
    keys = np.floor(vertices / cell).astype(np.int64)
    _, cell_of = np.unique(keys, axis=0, return_inverse=True)
    cell_of = cell_of.reshape(-1)
    centre = np.zeros((cell_of.max() + 1, 3))
    np.add.at(centre, cell_of, vertices)
    centre /= np.bincount(cell_of)[:, None]
    # The representative is the vertex nearest to the mean of its cell, so no new vertex is needed.
    offset = np.linalg.norm(vertices - centre[cell_of], axis=1)
    order = np.lexsort((offset, cell_of))
    representative = order[np.searchsorted(cell_of[order], np.arange(len(centre)))]
    return representative[cell_of][faces].astype(np.int32)


def simplified_for_upload(model: Any, cell: float) -> Any:
    """A copy of an ``MjModel`` whose meshes are clustered, to make an ``MjrContext`` from; the original is untouched.

    Only the context may use it: collisions and inertia belong to the original.
    """
    simplified = copy.copy(model)
    for mesh in range(model.nmesh):
        first, count = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
        begin, size = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
        faces = cluster_faces(model.mesh_vert[begin : begin + size], model.mesh_face[first : first + count], cell)
        _, unique = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
        kept = unique[
            (faces[unique, 0] != faces[unique, 1])
            & (faces[unique, 1] != faces[unique, 2])
            & (faces[unique, 0] != faces[unique, 2])
        ]
        if len(kept) == 0:  # smaller than a cell: it has to stay visible
            continue
        stop = first + len(kept)
        simplified.mesh_facenum[mesh] = len(kept)
        simplified.mesh_face[first:stop] = faces[kept]
        simplified.mesh_facenormal[first:stop] = model.mesh_facenormal[first : first + count][kept]
        simplified.mesh_facetexcoord[first:stop] = model.mesh_facetexcoord[first : first + count][kept]
    return simplified

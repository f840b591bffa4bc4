"""Private names of dependencies: one file a dependency, each with the version and the reason. Nothing else touches any.

A new version of a dependency is tried out here first. What stands here has no public counterpart; each function says
what would replace it. The files import their dependency when they are called, so importing one of them is cheap.
"""

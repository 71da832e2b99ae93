"""The command line: thin commands over the functions that the notebooks call.

Belongs here: arguments, options, help texts and exit codes. Does not belong here: anything that a notebook may need,
too. Other distributions add commands by the entry point group `meshkit.commands`.
"""

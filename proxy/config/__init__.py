"""The configuration: a YAML file, the environment, and what both compile to.

``load`` is the door in; ``secrets`` is standard library only, so that workers may import it. Importing this
package alone imports nothing. No other package reads the process environment.
"""

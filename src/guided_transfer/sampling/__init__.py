"""How does noise become video? Schedule, solver, denoiser, guidance, noise.

A clip reads like a sentence:

    denoiser = ClassifierFree(EdmDenoiser(positive), EdmDenoiser(negative), guidance)
    denoiser = FirstFrames(denoiser, frames, noise.first_frames)
    denoiser = SpatiallyGuided(denoiser, clean, noise.held, keep, background, sigma_threshold)
    denoiser = RimMatched(denoiser, match)
    latents = sample(denoiser, starting_state(noise.start, sigma_max, clean), karras_sigmas(num_steps, sigma_max))
"""
